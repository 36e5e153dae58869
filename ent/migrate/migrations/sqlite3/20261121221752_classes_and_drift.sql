-- disable the enforcement of foreign-keys constraints
PRAGMA foreign_keys = off;
-- create "new_machines" table
CREATE TABLE `new_machines` (`id` uuid NOT NULL, `address` text NULL, `state` text NOT NULL, `serial` text NULL, `smbios_uuid` text NULL, `image` text NULL, `host_key` text NULL, `first_seen` datetime NOT NULL, `last_seen` datetime NOT NULL, `drift` text NULL, `drift_digest` text NULL, `drift_since` datetime NULL, `looked_at` datetime NULL, `site` text NOT NULL, PRIMARY KEY (`id`), CONSTRAINT `machines_sites_machines` FOREIGN KEY (`site`) REFERENCES `sites` (`id`) ON DELETE NO ACTION);
-- copy rows from old table "machines" to new temporary table "new_machines"
INSERT INTO `new_machines` (`id`, `address`, `state`, `serial`, `smbios_uuid`, `image`, `host_key`, `first_seen`, `last_seen`, `site`) SELECT `id`, `address`, `state`, `serial`, `smbios_uuid`, `image`, `host_key`, `first_seen`, `last_seen`, `site` FROM `machines`;
-- drop "machines" table after copying rows
DROP TABLE `machines`;
-- rename temporary table "new_machines" to "machines"
ALTER TABLE `new_machines` RENAME TO `machines`;
-- create index "machine_site_address" to table: "machines"
CREATE UNIQUE INDEX `machine_site_address` ON `machines` (`site`, `address`);
-- create index "machine_smbios_uuid" to table: "machines"
CREATE INDEX `machine_smbios_uuid` ON `machines` (`smbios_uuid`);
-- create index "machine_serial_id" to table: "machines"
CREATE INDEX `machine_serial_id` ON `machines` (`serial`, `id`);
-- create index "machine_state_id" to table: "machines"
CREATE INDEX `machine_state_id` ON `machines` (`state`, `id`);
-- create index "machine_address_id" to table: "machines"
CREATE INDEX `machine_address_id` ON `machines` (`address`, `id`);
-- create index "machine_last_seen_id" to table: "machines"
CREATE INDEX `machine_last_seen_id` ON `machines` (`last_seen`, `id`);
-- create index "machine_drift_id" to table: "machines"
CREATE INDEX `machine_drift_id` ON `machines` (`drift`, `id`);
-- create "memberships" table
CREATE TABLE `memberships` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `class` text NOT NULL, `entered_at` datetime NOT NULL, `machine_id` uuid NOT NULL, CONSTRAINT `memberships_machines_memberships` FOREIGN KEY (`machine_id`) REFERENCES `machines` (`id`) ON DELETE CASCADE);
-- create index "membership_machine_id" to table: "memberships"
CREATE INDEX `membership_machine_id` ON `memberships` (`machine_id`);
-- create index "membership_machine_id_class" to table: "memberships"
CREATE UNIQUE INDEX `membership_machine_id_class` ON `memberships` (`machine_id`, `class`);
-- create index "membership_class_machine_id" to table: "memberships"
CREATE INDEX `membership_class_machine_id` ON `memberships` (`class`, `machine_id`);
-- create "reactions" table
CREATE TABLE `reactions` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `site` text NOT NULL, `class` text NOT NULL, `digest` text NOT NULL, `state` text NOT NULL, `address` text NULL, `reason` text NULL, `attempts` integer NOT NULL DEFAULT (0), `queued_at` datetime NOT NULL, `started_at` datetime NULL, `finished_at` datetime NULL, `machine_id` uuid NOT NULL, CONSTRAINT `reactions_machines_reactions` FOREIGN KEY (`machine_id`) REFERENCES `machines` (`id`) ON DELETE CASCADE);
-- create index "reaction_machine_id" to table: "reactions"
CREATE INDEX `reaction_machine_id` ON `reactions` (`machine_id`);
-- create index "reaction_machine_id_class_digest" to table: "reactions"
CREATE UNIQUE INDEX `reaction_machine_id_class_digest` ON `reactions` (`machine_id`, `class`, `digest`);
-- create index "reaction_site_id" to table: "reactions"
CREATE INDEX `reaction_site_id` ON `reactions` (`site`, `id`);
-- create "snapshots" table
CREATE TABLE `snapshots` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `number` integer NOT NULL, `digest` text NOT NULL, `content` blob NOT NULL, `taken_at` datetime NOT NULL, `run` text NULL, `accepted_by` text NULL, `signature` blob NOT NULL, `machine_id` uuid NOT NULL, CONSTRAINT `snapshots_machines_snapshots` FOREIGN KEY (`machine_id`) REFERENCES `machines` (`id`) ON DELETE CASCADE);
-- create index "snapshot_machine_id" to table: "snapshots"
CREATE INDEX `snapshot_machine_id` ON `snapshots` (`machine_id`);
-- create index "snapshot_machine_id_number" to table: "snapshots"
CREATE UNIQUE INDEX `snapshot_machine_id_number` ON `snapshots` (`machine_id`, `number`);
-- the agent was the only one that looked
UPDATE machines SET looked_at = (SELECT MAX(observations.last_seen) FROM observations WHERE observations.machine_id = machines.id AND observations.source = 'agent');
-- enable back the enforcement of foreign-keys constraints
PRAGMA foreign_keys = on;
