-- drop index "event_machine_id" from table: "events"
DROP INDEX `event_machine_id`;
-- drop index "event_mac" from table: "events"
DROP INDEX `event_mac`;
-- create index "event_machine_id_time" to table: "events"
CREATE INDEX `event_machine_id_time` ON `events` (`machine_id`, `time`);
-- create index "event_mac_time" to table: "events"
CREATE INDEX `event_mac_time` ON `events` (`mac`, `time`);
-- add column "host_key" to table: "machines"
ALTER TABLE `machines` ADD COLUMN `host_key` text NULL;
