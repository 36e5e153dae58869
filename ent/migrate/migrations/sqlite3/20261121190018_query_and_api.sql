-- drop index "disk_bytes" from table: "disks"
DROP INDEX `disk_bytes`;
-- drop index "disk_model" from table: "disks"
DROP INDEX `disk_model`;
-- create index "disk_bytes_machine_id" to table: "disks"
CREATE INDEX `disk_bytes_machine_id` ON `disks` (`bytes`, `machine_id`);
-- create index "disk_model_machine_id" to table: "disks"
CREATE INDEX `disk_model_machine_id` ON `disks` (`model`, `machine_id`);
-- create index "lease_mac" to table: "leases"
CREATE INDEX `lease_mac` ON `leases` (`mac`);
-- create index "lease_address" to table: "leases"
CREATE INDEX `lease_address` ON `leases` (`address`);
-- drop index "machine_serial" from table: "machines"
DROP INDEX `machine_serial`;
-- drop index "machine_state" from table: "machines"
DROP INDEX `machine_state`;
-- create index "machine_serial_id" to table: "machines"
CREATE INDEX `machine_serial_id` ON `machines` (`serial`, `id`);
-- create index "machine_state_id" to table: "machines"
CREATE INDEX `machine_state_id` ON `machines` (`state`, `id`);
-- create index "machine_address_id" to table: "machines"
CREATE INDEX `machine_address_id` ON `machines` (`address`, `id`);
-- create index "machine_last_seen_id" to table: "machines"
CREATE INDEX `machine_last_seen_id` ON `machines` (`last_seen`, `id`);
-- drop index "machinefacts_memory_bytes" from table: "machine_facts"
DROP INDEX `machinefacts_memory_bytes`;
-- drop index "machinefacts_cpu_cores" from table: "machine_facts"
DROP INDEX `machinefacts_cpu_cores`;
-- drop index "machinefacts_bios_version" from table: "machine_facts"
DROP INDEX `machinefacts_bios_version`;
-- create index "machinefacts_memory_bytes_machine_id" to table: "machine_facts"
CREATE INDEX `machinefacts_memory_bytes_machine_id` ON `machine_facts` (`memory_bytes`, `machine_id`);
-- create index "machinefacts_cpu_cores_machine_id" to table: "machine_facts"
CREATE INDEX `machinefacts_cpu_cores_machine_id` ON `machine_facts` (`cpu_cores`, `machine_id`);
-- create index "machinefacts_system_product_machine_id" to table: "machine_facts"
CREATE INDEX `machinefacts_system_product_machine_id` ON `machine_facts` (`system_product`, `machine_id`);
-- create index "machinefacts_system_product" to table: "machine_facts"
CREATE INDEX `machinefacts_system_product` ON `machine_facts` (`system_product`);
-- create index "machinefacts_bios_version_machine_id" to table: "machine_facts"
CREATE INDEX `machinefacts_bios_version_machine_id` ON `machine_facts` (`bios_version`, `machine_id`);
-- drop index "nic_driver" from table: "nics"
DROP INDEX `nic_driver`;
-- create index "nic_driver_machine_id" to table: "nics"
CREATE INDEX `nic_driver_machine_id` ON `nics` (`driver`, `machine_id`);
-- create "audit" table
CREATE TABLE `audit` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `time` datetime NOT NULL, `actor` text NOT NULL, `actor_name` text NULL, `role` text NULL, `remote` text NULL, `method` text NULL, `path` text NULL, `action` text NOT NULL, `target` text NULL, `request` text NULL, `status` integer NULL, `finished_at` datetime NULL);
-- create index "audit_time" to table: "audit"
CREATE INDEX `audit_time` ON `audit` (`time`);
-- create index "audit_actor_id" to table: "audit"
CREATE INDEX `audit_actor_id` ON `audit` (`actor`, `id`);
-- create "fact_changes" table
CREATE TABLE `fact_changes` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `path` text NOT NULL, `at` datetime NOT NULL, `machine_id` uuid NOT NULL, CONSTRAINT `fact_changes_machines_fact_changes` FOREIGN KEY (`machine_id`) REFERENCES `machines` (`id`) ON DELETE CASCADE);
-- create index "factchange_machine_id" to table: "fact_changes"
CREATE INDEX `factchange_machine_id` ON `fact_changes` (`machine_id`);
-- create index "factchange_machine_id_path_at" to table: "fact_changes"
CREATE INDEX `factchange_machine_id_path_at` ON `fact_changes` (`machine_id`, `path`, `at`);
-- create index "factchange_path_at_machine_id" to table: "fact_changes"
CREATE INDEX `factchange_path_at_machine_id` ON `fact_changes` (`path`, `at`, `machine_id`);
-- create "operations" table
CREATE TABLE `operations` (`id` uuid NOT NULL, `actor` text NOT NULL, `idempotency_key` text NOT NULL, `request_digest` text NOT NULL, `kind` text NOT NULL, `machine_id` uuid NULL, `site` text NULL, `state` text NOT NULL, `result` text NULL, `error` text NULL, `created_at` datetime NOT NULL, `finished_at` datetime NULL, PRIMARY KEY (`id`));
-- create index "operation_actor_idempotency_key" to table: "operations"
CREATE UNIQUE INDEX `operation_actor_idempotency_key` ON `operations` (`actor`, `idempotency_key`);
-- create index "operation_machine_id" to table: "operations"
CREATE INDEX `operation_machine_id` ON `operations` (`machine_id`);
-- create index "operation_state" to table: "operations"
CREATE INDEX `operation_state` ON `operations` (`state`);
-- create index "operation_created_at" to table: "operations"
CREATE INDEX `operation_created_at` ON `operations` (`created_at`);
-- create "tags" table
CREATE TABLE `tags` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `key` text NOT NULL, `value` text NOT NULL, `set_at` datetime NOT NULL, `machine_id` uuid NOT NULL, CONSTRAINT `tags_machines_tags` FOREIGN KEY (`machine_id`) REFERENCES `machines` (`id`) ON DELETE CASCADE);
-- create index "tag_machine_id" to table: "tags"
CREATE INDEX `tag_machine_id` ON `tags` (`machine_id`);
-- create index "tag_machine_id_key" to table: "tags"
CREATE UNIQUE INDEX `tag_machine_id_key` ON `tags` (`machine_id`, `key`);
-- create index "tag_key_value_machine_id" to table: "tags"
CREATE INDEX `tag_key_value_machine_id` ON `tags` (`key`, `value`, `machine_id`);
-- create "api_tokens" table
CREATE TABLE `api_tokens` (`id` text NOT NULL, `name` text NOT NULL, `hash` blob NOT NULL, `role` text NOT NULL, `created_by` text NULL, `created_at` datetime NOT NULL, `expires_at` datetime NOT NULL, `revoked_at` datetime NULL, `last_used_at` datetime NULL, PRIMARY KEY (`id`));
-- create "webhooks" table
CREATE TABLE `webhooks` (`id` uuid NOT NULL, `url` text NOT NULL, `secret` blob NOT NULL, `kinds` json NULL, `created_by` text NULL, `created_at` datetime NOT NULL, `cursor` integer NOT NULL, `attempts` integer NOT NULL DEFAULT (0), `next_try_at` datetime NULL, `last_error` text NULL, PRIMARY KEY (`id`));
