-- Version 3: how an image was sent, and how fast, which before stood in the detail
-- of a step for people to read. How many requests were sent again is in retries.

-- Empty and 0 in every result before, and where nothing was sent.
ALTER TABLE results ADD COLUMN upload_mode        TEXT    NOT NULL DEFAULT ''; -- the way it ended in: stop-and-wait, overlapped, window
ALTER TABLE results ADD COLUMN upload_rewinds     INTEGER NOT NULL DEFAULT 0   -- how often a faster way was given up
    CONSTRAINT "rewinds are not negative" CHECK (upload_rewinds >= 0);
ALTER TABLE results ADD COLUMN upload_bytes_per_s INTEGER NOT NULL DEFAULT 0   -- image bytes that the device took, over the time of the uploads alone
    CONSTRAINT "a rate is not negative" CHECK (upload_bytes_per_s >= 0);

-- One row per attempt, for whoever asks with SQL: the columns of version 2, then
-- the new ones.
DROP VIEW records;
CREATE VIEW records AS
SELECT a.*, coalesce(r.outcome, 'RUNNING') AS outcome, r.finish_no, r.failure_code, r.failed_step, r.detail,
    r.next_step, r.device_hash, r.device_version, r.prev_hash, r.target, r.chunk_size, r.message_size,
    r.bytes_sent, r.retries, r.ended_at, r.duration_ms,
    r.policy, r.policy_row, r.policy_why, r.proof,
    r.upload_mode, r.upload_rewinds, r.upload_bytes_per_s
FROM attempts a LEFT JOIN results r ON r.attempt = a.n;
