PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE orders (
    order_id        TEXT    NOT NULL PRIMARY KEY,
    product         TEXT    NOT NULL,
    recipe_revision TEXT    NOT NULL,
    quantity        INTEGER NOT NULL,
    created_at      TEXT    NOT NULL,
    CONSTRAINT "an order has a name"                 CHECK (order_id <> ''),
    CONSTRAINT "the quantity of an order is not negative" CHECK (quantity >= 0),
    CONSTRAINT "created_at is UTC with milliseconds" CHECK (created_at GLOB '????-??-??T??:??:??.???Z')
) STRICT;
INSERT INTO orders VALUES('WO-7','lamp','C',100,'2026-11-22T08:00:01.234Z');
CREATE TABLE recipes (
    recipe_sha256 TEXT NOT NULL PRIMARY KEY,
    product       TEXT NOT NULL,
    revision      TEXT NOT NULL,
    body          TEXT NOT NULL,
    CONSTRAINT "a recipe is known by its SHA-256 in lower-case hex"
        CHECK (length(recipe_sha256) = 64 AND recipe_sha256 NOT GLOB '*[^0-9a-f]*'),
    CONSTRAINT "a recipe names its product and revision" CHECK (product <> '' AND revision <> ''),
    CONSTRAINT "a released revision has one text" UNIQUE (product, revision)
) STRICT;
INSERT INTO recipes VALUES('4051368722119baa5fe7e64152ac0767ebada525e0fd2ef3b1db202acf140fbe','lamp','C',replace('steps = []\n','\n',char(10)));
CREATE TABLE images (
    file_sha256 TEXT    NOT NULL PRIMARY KEY,
    image_hash  TEXT    NOT NULL,
    version     TEXT    NOT NULL,
    size        INTEGER NOT NULL,
    name        TEXT    NOT NULL,
    CONSTRAINT "an image file is known by its SHA-256 in lower-case hex"
        CHECK (length(file_sha256) = 64 AND file_sha256 NOT GLOB '*[^0-9a-f]*'),
    -- MCUboot signs with SHA-256, SHA-384 or SHA-512.
    CONSTRAINT "the hash of an image is 32, 48 or 64 bytes in lower-case hex"
        CHECK (length(image_hash) IN (64, 96, 128) AND image_hash NOT GLOB '*[^0-9a-f]*'),
    CONSTRAINT "an image is not empty" CHECK (size > 0)
) STRICT;
INSERT INTO images VALUES('d30b8053831709bb3d91447c8d498d51c372840a92ea726fa40c9da120ab81a0','abababababababababababababababababababababababababababababababab','1.2.3+4',22,'app.bin');
CREATE TABLE image_bytes (
    file_sha256 TEXT NOT NULL PRIMARY KEY REFERENCES images,
    bytes       BLOB NOT NULL
) STRICT;
INSERT INTO image_bytes VALUES('d30b8053831709bb3d91447c8d498d51c372840a92ea726fa40c9da120ab81a0',X'616e20696d616765206f66207477656e74792d74776f');
CREATE TABLE attempts (
    n                 INTEGER NOT NULL PRIMARY KEY, -- order in this file, from 1, no gaps
    attempt_id        TEXT    NOT NULL UNIQUE,      -- UUIDv7
    station           TEXT    NOT NULL,
    seq               INTEGER NOT NULL,             -- order at this station, from 1, no gaps
    host              TEXT    NOT NULL,
    boot_id           TEXT    NOT NULL,             -- one start of the station program
    fixture           TEXT    NOT NULL,
    site              INTEGER NOT NULL,
    cycle_id          TEXT    NOT NULL,
    order_id          TEXT    REFERENCES orders,
    unit_serial       TEXT    NOT NULL,             -- '' when unknown: the record is kept anyway
    serial_source     TEXT    NOT NULL,
    operator          TEXT    NOT NULL,
    attempt_no        INTEGER NOT NULL,             -- nth attempt of the unit in the order, all history
    cycle_try         INTEGER NOT NULL,             -- nth try within the cycle
    purpose           TEXT    NOT NULL,
    recipe_sha256     TEXT,
    product           TEXT    NOT NULL,
    recipe_revision   TEXT    NOT NULL,
    image_name        TEXT    NOT NULL,
    image_version     TEXT    NOT NULL,
    image_file_sha256 TEXT,
    image_hash        TEXT    NOT NULL,             -- what the device must report
    image_size        INTEGER NOT NULL,
    software_version  TEXT    NOT NULL,
    config_sha256     TEXT    NOT NULL,
    port              TEXT    NOT NULL,
    baud              INTEGER NOT NULL,
    started_at        TEXT    NOT NULL,
    UNIQUE (station, seq),
    -- The recipe and the image an attempt names are the recipe and the image on file.
    FOREIGN KEY (recipe_sha256, product, recipe_revision) REFERENCES recipes (recipe_sha256, product, revision),
    FOREIGN KEY (image_file_sha256, image_hash) REFERENCES images (file_sha256, image_hash),
    CONSTRAINT "an attempt names its station" CHECK (station <> ''),
    CONSTRAINT "sites count from 1" CHECK (site >= 1),
    CONSTRAINT "a known serial says where it came from (scan, typed, device, generated)"
        CHECK (serial_source IN ('scan', 'typed', 'device', 'generated') OR (serial_source = '' AND unit_serial = '')),
    CONSTRAINT "attempt_no counts from 1" CHECK (attempt_no >= 1),
    CONSTRAINT "cycle_try counts from 1" CHECK (cycle_try >= 1),
    CONSTRAINT "the purpose is production, golden or debug" CHECK (purpose IN ('production', 'golden', 'debug')),
    CONSTRAINT "the hash an attempt must prove is 32, 48 or 64 bytes in lower-case hex"
        CHECK (length(image_hash) IN (64, 96, 128) AND image_hash NOT GLOB '*[^0-9a-f]*'),
    CONSTRAINT "sizes and rates are not negative" CHECK (image_size >= 0 AND baud >= 0),
    CONSTRAINT "started_at is UTC with milliseconds" CHECK (started_at GLOB '????-??-??T??:??:??.???Z')
) STRICT;
INSERT INTO attempts VALUES(1,'01a20569-7458-7493-987f-d73f8cc76b3f','st1',1,'pc1','d4134c3d-5958-4ff7-b562-fdd697d07cf3','fx1',3,'c-1','WO-7','SN1','scan','op7',1,1,'production','4051368722119baa5fe7e64152ac0767ebada525e0fd2ef3b1db202acf140fbe','lamp','C','app.bin','1.2.3+4','d30b8053831709bb3d91447c8d498d51c372840a92ea726fa40c9da120ab81a0','abababababababababababababababababababababababababababababababab',22,'v1.0.0','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc','usb-1.3',1000000,'2026-11-22T08:00:02.468Z');
INSERT INTO attempts VALUES(2,'01a20569-7459-7738-a1fe-ff6e98ef5b82','st1',2,'pc1','d4134c3d-5958-4ff7-b562-fdd697d07cf3','fx1',3,'c-1','WO-7','SN1','scan','op7',2,1,'production','4051368722119baa5fe7e64152ac0767ebada525e0fd2ef3b1db202acf140fbe','lamp','C','app.bin','1.2.3+4','d30b8053831709bb3d91447c8d498d51c372840a92ea726fa40c9da120ab81a0','abababababababababababababababababababababababababababababababab',22,'v1.0.0','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc','usb-1.3',1000000,'2026-11-22T08:00:04.936Z');
INSERT INTO attempts VALUES(3,'01a20569-745a-794b-867f-4ca9a4ba531a','st1',3,'pc1','d4134c3d-5958-4ff7-b562-fdd697d07cf3','fx1',3,'c-1','WO-7','SN2','scan','op7',1,1,'production','4051368722119baa5fe7e64152ac0767ebada525e0fd2ef3b1db202acf140fbe','lamp','C','app.bin','1.2.3+4','d30b8053831709bb3d91447c8d498d51c372840a92ea726fa40c9da120ab81a0','abababababababababababababababababababababababababababababababab',22,'v1.0.0','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc','usb-1.3',1000000,'2026-11-22T08:00:07.404Z');
CREATE TABLE results (
    finish_no      INTEGER NOT NULL PRIMARY KEY, -- order of ending in this file, from 1, no gaps
    attempt        INTEGER NOT NULL UNIQUE REFERENCES attempts (n),
    outcome        TEXT    NOT NULL,
    failure_code   TEXT    NOT NULL,
    failed_step    TEXT    NOT NULL,
    detail         TEXT    NOT NULL,
    next_step      TEXT    NOT NULL,
    device_hash    TEXT    NOT NULL, -- what the device reported after the upload
    device_version TEXT    NOT NULL,
    prev_hash      TEXT    NOT NULL, -- what it reported before
    target         TEXT    NOT NULL,
    chunk_size     INTEGER NOT NULL,
    message_size   INTEGER NOT NULL,
    bytes_sent     INTEGER NOT NULL,
    retries        INTEGER NOT NULL,
    ended_at       TEXT    NOT NULL,
    duration_ms    INTEGER, policy     TEXT NOT NULL DEFAULT '', policy_row TEXT NOT NULL DEFAULT '', policy_why TEXT NOT NULL DEFAULT '', proof      TEXT NOT NULL DEFAULT '',          -- monotonic; NULL when the station died in between
    CONSTRAINT "the outcome is PASS, FAIL, ERROR, ABORTED or INTERRUPTED"
        CHECK (outcome IN ('PASS', 'FAIL', 'ERROR', 'ABORTED', 'INTERRUPTED')),
    CONSTRAINT "a PASS has no failure code and no failed step"
        CHECK (outcome <> 'PASS' OR (failure_code = '' AND failed_step = '')),
    CONSTRAINT "an outcome other than PASS has a failure code and a detail"
        CHECK (outcome IN ('PASS', 'INTERRUPTED') OR (failure_code <> '' AND detail <> '')),
    CONSTRAINT "hashes of the device are lower-case hex"
        CHECK (device_hash NOT GLOB '*[^0-9a-f]*' AND prev_hash NOT GLOB '*[^0-9a-f]*'),
    CONSTRAINT "the target is bootloader or application" CHECK (target IN ('', 'bootloader', 'application')),
    CONSTRAINT "sizes and counts of a result are not negative"
        CHECK (chunk_size >= 0 AND message_size >= 0 AND bytes_sent >= 0 AND retries >= 0),
    CONSTRAINT "a result that was not interrupted has a duration"
        CHECK (coalesce(duration_ms >= 0, outcome = 'INTERRUPTED')),
    CONSTRAINT "ended_at is UTC with milliseconds" CHECK (ended_at GLOB '????-??-??T??:??:??.???Z')
) STRICT;
INSERT INTO results VALUES(1,1,'FAIL','NO_ANSWER','enter recovery','The board did not answer.','Reseat the board and start again.','','','','',0,0,0,0,'2026-11-22T08:00:03.702Z',1000,'','','','');
INSERT INTO results VALUES(2,2,'PASS','','','','','abababababababababababababababababababababababababababababababab','1.2.3+4','','bootloader',400,512,22,1,'2026-11-22T08:00:06.170Z',41500,'secondary-confirm','5','The recipe wants slot 1, and the bootloader takes uploads for it.','After the start the bootloader listed every hash in slot 0.');
CREATE TABLE steps (
    attempt     INTEGER NOT NULL REFERENCES results (attempt),
    ordinal     INTEGER NOT NULL, -- from 1
    name        TEXT    NOT NULL,
    start_ms    INTEGER NOT NULL, -- since the start of the attempt, monotonic
    duration_ms INTEGER NOT NULL,
    outcome     TEXT    NOT NULL,
    retries     INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    detail      TEXT    NOT NULL,
    PRIMARY KEY (attempt, ordinal),
    CONSTRAINT "a step has a name" CHECK (name <> ''),
    CONSTRAINT "the outcome of a step is PASS, FAIL, ERROR, ABORTED or SKIPPED"
        CHECK (outcome IN ('PASS', 'FAIL', 'ERROR', 'ABORTED', 'SKIPPED')),
    CONSTRAINT "times and counts of a step are not negative"
        CHECK (ordinal >= 1 AND start_ms >= 0 AND duration_ms >= 0 AND retries >= 0 AND bytes >= 0)
) STRICT, WITHOUT ROWID;
INSERT INTO steps VALUES(1,1,'enter recovery',0,1000,'FAIL',0,0,'');
INSERT INTO steps VALUES(1,2,'upload',0,0,'SKIPPED',0,0,'');
INSERT INTO steps VALUES(2,1,'enter recovery',0,300,'PASS',0,0,'');
INSERT INTO steps VALUES(2,2,'upload',300,40000,'PASS',1,22,'');
INSERT INTO steps VALUES(2,3,'verify',40300,1200,'PASS',0,0,'hash "ab…" <as asked>');
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
INSERT INTO further_images VALUES(2,1,'net.bin','0.9.1+0','d30b8053831709bb3d91447c8d498d51c372840a92ea726fa40c9da120ab81a0','abababababababababababababababababababababababababababababababab',22);
INSERT INTO further_images VALUES(2,2,'radio.bin','3.0.0+0',NULL,'cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd',4096);
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
INSERT INTO further_results VALUES(2,1,'abababababababababababababababababababababababababababababababab','0.9.1+0','0101010101010101010101010101010101010101010101010101010101010101');
INSERT INTO further_results VALUES(2,2,'cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd','3.0.0+0','');
CREATE UNIQUE INDEX recipes_whole ON recipes (recipe_sha256, product, revision);
CREATE UNIQUE INDEX images_whole ON images (file_sha256, image_hash);
CREATE INDEX attempts_by_order ON attempts (order_id, n, unit_serial, purpose);
CREATE INDEX attempts_by_unit  ON attempts (unit_serial);
CREATE INDEX attempts_by_image ON attempts (image_hash);
CREATE INDEX attempts_by_start ON attempts (started_at);
CREATE TRIGGER attempts_without_gaps BEFORE INSERT ON attempts
WHEN NEW.n <> (SELECT coalesce(max(n), 0) + 1 FROM attempts)
    OR NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM attempts WHERE station = NEW.station)
BEGIN SELECT RAISE(ABORT, 'attempts are numbered from 1 without gaps'); END;
CREATE TRIGGER results_without_gaps BEFORE INSERT ON results
WHEN NEW.finish_no <> (SELECT coalesce(max(finish_no), 0) + 1 FROM results)
BEGIN SELECT RAISE(ABORT, 'results are numbered from 1 without gaps'); END;
CREATE TRIGGER orders_not_updated BEFORE UPDATE ON orders
BEGIN SELECT RAISE(ABORT, 'orders are append-only: no row is ever changed'); END;
CREATE TRIGGER orders_not_deleted BEFORE DELETE ON orders
BEGIN SELECT RAISE(ABORT, 'orders are append-only: no row is ever deleted'); END;
CREATE TRIGGER orders_not_replaced BEFORE INSERT ON orders
WHEN EXISTS (SELECT 1 FROM orders WHERE order_id = NEW.order_id)
BEGIN SELECT RAISE(ABORT, 'orders are append-only: this order is on file already'); END;
CREATE TRIGGER recipes_not_updated BEFORE UPDATE ON recipes
BEGIN SELECT RAISE(ABORT, 'recipes are append-only: no row is ever changed'); END;
CREATE TRIGGER recipes_not_deleted BEFORE DELETE ON recipes
BEGIN SELECT RAISE(ABORT, 'recipes are append-only: no row is ever deleted'); END;
CREATE TRIGGER recipes_not_replaced BEFORE INSERT ON recipes
WHEN EXISTS (SELECT 1 FROM recipes WHERE recipe_sha256 = NEW.recipe_sha256
    OR (product = NEW.product AND revision = NEW.revision))
BEGIN SELECT RAISE(ABORT, 'recipes are append-only: this recipe is on file already'); END;
CREATE TRIGGER images_not_updated BEFORE UPDATE ON images
BEGIN SELECT RAISE(ABORT, 'images are append-only: no row is ever changed'); END;
CREATE TRIGGER images_not_deleted BEFORE DELETE ON images
BEGIN SELECT RAISE(ABORT, 'images are append-only: no row is ever deleted'); END;
CREATE TRIGGER images_not_replaced BEFORE INSERT ON images
WHEN EXISTS (SELECT 1 FROM images WHERE file_sha256 = NEW.file_sha256)
BEGIN SELECT RAISE(ABORT, 'images are append-only: this image is on file already'); END;
CREATE TRIGGER image_bytes_not_updated BEFORE UPDATE ON image_bytes
BEGIN SELECT RAISE(ABORT, 'image_bytes are append-only: no row is ever changed'); END;
CREATE TRIGGER image_bytes_not_deleted BEFORE DELETE ON image_bytes
BEGIN SELECT RAISE(ABORT, 'image_bytes are append-only: no row is ever deleted'); END;
CREATE TRIGGER image_bytes_not_replaced BEFORE INSERT ON image_bytes
WHEN EXISTS (SELECT 1 FROM image_bytes WHERE file_sha256 = NEW.file_sha256)
BEGIN SELECT RAISE(ABORT, 'image_bytes are append-only: this image is on file already'); END;
CREATE TRIGGER attempts_not_updated BEFORE UPDATE ON attempts
BEGIN SELECT RAISE(ABORT, 'attempts are append-only: no row is ever changed'); END;
CREATE TRIGGER attempts_not_deleted BEFORE DELETE ON attempts
BEGIN SELECT RAISE(ABORT, 'attempts are append-only: no row is ever deleted'); END;
CREATE TRIGGER attempts_not_replaced BEFORE INSERT ON attempts
WHEN EXISTS (SELECT 1 FROM attempts WHERE attempt_id = NEW.attempt_id)
BEGIN SELECT RAISE(ABORT, 'attempts are append-only: this attempt is on file already'); END;
CREATE TRIGGER results_not_updated BEFORE UPDATE ON results
BEGIN SELECT RAISE(ABORT, 'results are append-only: no row is ever changed'); END;
CREATE TRIGGER results_not_deleted BEFORE DELETE ON results
BEGIN SELECT RAISE(ABORT, 'results are append-only: no row is ever deleted'); END;
CREATE TRIGGER results_not_replaced BEFORE INSERT ON results
WHEN EXISTS (SELECT 1 FROM results WHERE attempt = NEW.attempt)
BEGIN SELECT RAISE(ABORT, 'results are append-only: this attempt has its result already'); END;
CREATE TRIGGER steps_not_updated BEFORE UPDATE ON steps
BEGIN SELECT RAISE(ABORT, 'steps are append-only: no row is ever changed'); END;
CREATE TRIGGER steps_not_deleted BEFORE DELETE ON steps
BEGIN SELECT RAISE(ABORT, 'steps are append-only: no row is ever deleted'); END;
CREATE TRIGGER steps_not_replaced BEFORE INSERT ON steps
WHEN EXISTS (SELECT 1 FROM steps WHERE attempt = NEW.attempt AND ordinal = NEW.ordinal)
BEGIN SELECT RAISE(ABORT, 'steps are append-only: this step is on file already'); END;
CREATE VIEW running AS
SELECT a.n FROM attempts a
WHERE NOT EXISTS (SELECT 1 FROM results r WHERE r.attempt = a.n)
ORDER BY a.n DESC
LIMIT coalesce((SELECT max(n) FROM attempts), 0) - coalesce((SELECT max(finish_no) FROM results), 0);
CREATE INDEX further_images_by_hash ON further_images (hash);
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
CREATE TRIGGER further_results_of_an_image BEFORE INSERT ON further_results
WHEN NOT EXISTS (SELECT 1 FROM further_images WHERE attempt = NEW.attempt AND number = NEW.number)
BEGIN SELECT RAISE(ABORT, 'the attempt has no further image of this number'); END;
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
CREATE VIEW records AS
SELECT a.*, coalesce(r.outcome, 'RUNNING') AS outcome, r.finish_no, r.failure_code, r.failed_step, r.detail,
    r.next_step, r.device_hash, r.device_version, r.prev_hash, r.target, r.chunk_size, r.message_size,
    r.bytes_sent, r.retries, r.ended_at, r.duration_ms,
    r.policy, r.policy_row, r.policy_why, r.proof
FROM attempts a LEFT JOIN results r ON r.attempt = a.n;
COMMIT;
PRAGMA application_id = 1179407176;
PRAGMA user_version = 2;
