-- Version 2: attempts with several images, and why a slot policy was followed.
--
-- A board may take more than one image in one attempt, such as one for its
-- application core and one for its network core. The first stays in attempts
-- and results, where it always was; the further ones lie in two tables that
-- are halves like those two: what was asked of the board, written with the
-- attempt, and what the board reported, written just before the result. An
-- attempt of version 1 has no further images, and its PASS means what it meant.

CREATE TABLE further_images (
    attempt     INTEGER NOT NULL REFERENCES attempts (n),
    number      INTEGER NOT NULL,            -- which of the board's images, as MCUboot counts them
    name        TEXT    NOT NULL,
    version     TEXT    NOT NULL,
    file_sha256 TEXT    REFERENCES images,   -- without the hash: a .zip is one file with several images
    hash        TEXT    NOT NULL,            -- what the device must report
    size        INTEGER NOT NULL,
    PRIMARY KEY (attempt, number),
    CONSTRAINT "images of a board count from 0" CHECK (number >= 0),
    CONSTRAINT "the hash an attempt must prove is 32, 48 or 64 bytes in lower-case hex"
        CHECK (length(hash) IN (64, 96, 128) AND hash NOT GLOB '*[^0-9a-f]*'),
    CONSTRAINT "the size of an image is not negative" CHECK (size >= 0)
) STRICT, WITHOUT ROWID;
-- The rest of the key follows of itself, so attempts with a hash come out sorted.
CREATE INDEX further_images_by_hash ON further_images (hash);

CREATE TABLE further_results (
    attempt        INTEGER NOT NULL,
    number         INTEGER NOT NULL,
    device_hash    TEXT    NOT NULL, -- what the device reported after the upload
    device_version TEXT    NOT NULL,
    prev_hash      TEXT    NOT NULL, -- what it reported before
    PRIMARY KEY (attempt, number),
    FOREIGN KEY (attempt, number) REFERENCES further_images (attempt, number),
    CONSTRAINT "hashes of the device are lower-case hex"
        CHECK (device_hash NOT GLOB '*[^0-9a-f]*' AND prev_hash NOT GLOB '*[^0-9a-f]*')
) STRICT, WITHOUT ROWID;

-- Empty in every result of version 1, and where it did not come to that.
ALTER TABLE results ADD COLUMN policy     TEXT NOT NULL DEFAULT ''; -- the slot policy that was followed
ALTER TABLE results ADD COLUMN policy_row TEXT NOT NULL DEFAULT ''; -- the row of the decision table that chose it
ALTER TABLE results ADD COLUMN policy_why TEXT NOT NULL DEFAULT ''; -- why, in one sentence
ALTER TABLE results ADD COLUMN proof      TEXT NOT NULL DEFAULT ''; -- how the image was proven, in one sentence

-- Promise 1, now for every image: no PASS without proof. It is kept by three
-- rules together: what was asked and what was reported are complete when the
-- result comes, nothing is added to them later, and the result looks at them.
DROP TRIGGER results_pass_is_proven;
CREATE TRIGGER results_pass_is_proven BEFORE INSERT ON results
WHEN NEW.outcome = 'PASS'
BEGIN
    SELECT RAISE(ABORT, 'a PASS needs a device that reported exactly the hash of the image')
    WHERE NEW.device_hash = ''
        OR NEW.device_hash IS NOT (SELECT image_hash FROM attempts WHERE n = NEW.attempt);
    SELECT RAISE(ABORT, 'a PASS needs a device that reported exactly the hash of every further image')
    WHERE EXISTS (SELECT 1 FROM further_images i WHERE i.attempt = NEW.attempt
        AND i.hash IS NOT (SELECT device_hash FROM further_results d WHERE d.attempt = i.attempt AND d.number = i.number));
END;
CREATE TRIGGER further_images_before_the_result BEFORE INSERT ON further_images
WHEN EXISTS (SELECT 1 FROM results WHERE attempt = NEW.attempt)
BEGIN SELECT RAISE(ABORT, 'an attempt that has its result takes no further image'); END;
CREATE TRIGGER further_results_before_the_result BEFORE INSERT ON further_results
WHEN EXISTS (SELECT 1 FROM results WHERE attempt = NEW.attempt)
BEGIN SELECT RAISE(ABORT, 'an attempt that has its result takes no further report of the device'); END;

-- The foreign key says the same, but only to those who turn foreign keys on,
-- and not in a sentence.
CREATE TRIGGER further_results_of_an_image BEFORE INSERT ON further_results
WHEN NOT EXISTS (SELECT 1 FROM further_images WHERE attempt = NEW.attempt AND number = NEW.number)
BEGIN SELECT RAISE(ABORT, 'the attempt has no further image of this number'); END;

-- Append only, as in version 1.
CREATE TRIGGER further_images_not_updated BEFORE UPDATE ON further_images
BEGIN SELECT RAISE(ABORT, 'further_images are append-only: no row is ever changed'); END;
CREATE TRIGGER further_images_not_deleted BEFORE DELETE ON further_images
BEGIN SELECT RAISE(ABORT, 'further_images are append-only: no row is ever deleted'); END;
CREATE TRIGGER further_images_not_replaced BEFORE INSERT ON further_images
WHEN EXISTS (SELECT 1 FROM further_images WHERE attempt = NEW.attempt AND number = NEW.number)
BEGIN SELECT RAISE(ABORT, 'further_images are append-only: the attempt has an image of this number already'); END;

CREATE TRIGGER further_results_not_updated BEFORE UPDATE ON further_results
BEGIN SELECT RAISE(ABORT, 'further_results are append-only: no row is ever changed'); END;
CREATE TRIGGER further_results_not_deleted BEFORE DELETE ON further_results
BEGIN SELECT RAISE(ABORT, 'further_results are append-only: no row is ever deleted'); END;
CREATE TRIGGER further_results_not_replaced BEFORE INSERT ON further_results
WHEN EXISTS (SELECT 1 FROM further_results WHERE attempt = NEW.attempt AND number = NEW.number)
BEGIN SELECT RAISE(ABORT, 'further_results are append-only: the device has reported on this image already'); END;

-- One row per attempt, for whoever asks with SQL: the columns of version 1,
-- then the new ones. The further images are a join away, being several.
DROP VIEW records;
CREATE VIEW records AS
SELECT a.*, coalesce(r.outcome, 'RUNNING') AS outcome, r.finish_no, r.failure_code, r.failed_step, r.detail,
    r.next_step, r.device_hash, r.device_version, r.prev_hash, r.target, r.chunk_size, r.message_size,
    r.bytes_sent, r.retries, r.ended_at, r.duration_ms,
    r.policy, r.policy_row, r.policy_why, r.proof
FROM attempts a LEFT JOIN results r ON r.attempt = a.n;
