-- create "applied" table
CREATE TABLE `applied` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `site` text NOT NULL, `address` text NOT NULL, `digest` text NOT NULL, `outputs` blob NULL, `schema_version` integer NOT NULL, `run` text NOT NULL, `time` datetime NOT NULL);
-- create index "applied_site_address" to table: "applied"
CREATE UNIQUE INDEX `applied_site_address` ON `applied` (`site`, `address`);
-- create "disks" table
CREATE TABLE `disks` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `name` text NOT NULL, `by_id` text NULL, `wwn` text NULL, `serial` text NULL, `vendor` text NULL, `model` text NULL, `firmware_rev` text NULL, `bytes` integer NULL, `logical_block_bytes` integer NULL, `physical_block_bytes` integer NULL, `rotational` bool NULL, `bus` text NULL, `path` text NULL, `machine_id` uuid NOT NULL, CONSTRAINT `disks_machines_disks` FOREIGN KEY (`machine_id`) REFERENCES `machines` (`id`) ON DELETE CASCADE);
-- create index "disk_machine_id" to table: "disks"
CREATE INDEX `disk_machine_id` ON `disks` (`machine_id`);
-- create index "disk_bytes" to table: "disks"
CREATE INDEX `disk_bytes` ON `disks` (`bytes`);
-- create index "disk_serial" to table: "disks"
CREATE INDEX `disk_serial` ON `disks` (`serial`);
-- create index "disk_wwn" to table: "disks"
CREATE INDEX `disk_wwn` ON `disks` (`wwn`);
-- create index "disk_model" to table: "disks"
CREATE INDEX `disk_model` ON `disks` (`model`);
-- create "documents" table
CREATE TABLE `documents` (`id` text NOT NULL, `content` blob NOT NULL, PRIMARY KEY (`id`));
-- create "events" table
CREATE TABLE `events` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `time` datetime NOT NULL, `site` text NULL, `mac` text NULL, `machine_id` uuid NULL, `kind` text NOT NULL, `run` text NULL, `step` text NULL, `boot` text NULL, `message` text NULL, `attrs` json NULL);
-- create index "event_machine_id" to table: "events"
CREATE INDEX `event_machine_id` ON `events` (`machine_id`);
-- create index "event_mac" to table: "events"
CREATE INDEX `event_mac` ON `events` (`mac`);
-- create index "event_run" to table: "events"
CREATE INDEX `event_run` ON `events` (`run`);
-- create index "event_time" to table: "events"
CREATE INDEX `event_time` ON `events` (`time`);
-- create "images" table
CREATE TABLE `images` (`id` text NOT NULL, `name` text NOT NULL, `architecture` text NULL, `spec_digest` text NULL, `path` text NULL, `raw_bytes` integer NOT NULL, `stored_bytes` integer NOT NULL, `created_at` datetime NOT NULL, PRIMARY KEY (`id`));
-- create index "image_name" to table: "images"
CREATE INDEX `image_name` ON `images` (`name`);
-- create index "image_spec_digest" to table: "images"
CREATE INDEX `image_spec_digest` ON `images` (`spec_digest`);
-- create "leases" table
CREATE TABLE `leases` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `network` text NOT NULL, `mac` text NOT NULL, `address` text NOT NULL, `client_id` text NULL, `hostname` text NULL, `state` text NOT NULL, `starts` datetime NOT NULL, `expires` datetime NOT NULL);
-- create index "lease_network_mac" to table: "leases"
CREATE UNIQUE INDEX `lease_network_mac` ON `leases` (`network`, `mac`) WHERE state <> 'declined';
-- create index "lease_network_address" to table: "leases"
CREATE UNIQUE INDEX `lease_network_address` ON `leases` (`network`, `address`) WHERE state <> 'released';
-- create index "lease_expires" to table: "leases"
CREATE INDEX `lease_expires` ON `leases` (`expires`);
-- create "locks" table
CREATE TABLE `locks` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `site` text NOT NULL, `address` text NOT NULL, `held` bool NOT NULL, `fence` integer NOT NULL, `host` text NULL, `boot_id` text NULL, `pid` integer NULL, `pid_start` integer NULL, `owner` text NULL, `acquired_at` datetime NOT NULL, `heartbeat` datetime NOT NULL);
-- create index "lock_site_address" to table: "locks"
CREATE UNIQUE INDEX `lock_site_address` ON `locks` (`site`, `address`);
-- create "macs" table
CREATE TABLE `macs` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `mac` text NOT NULL, `machine_id` uuid NOT NULL, CONSTRAINT `macs_machines_macs` FOREIGN KEY (`machine_id`) REFERENCES `machines` (`id`) ON DELETE CASCADE);
-- create index "macs_mac_key" to table: "macs"
CREATE UNIQUE INDEX `macs_mac_key` ON `macs` (`mac`);
-- create index "mac_machine_id" to table: "macs"
CREATE INDEX `mac_machine_id` ON `macs` (`machine_id`);
-- create "machines" table
CREATE TABLE `machines` (`id` uuid NOT NULL, `address` text NULL, `state` text NOT NULL, `serial` text NULL, `smbios_uuid` text NULL, `image` text NULL, `first_seen` datetime NOT NULL, `last_seen` datetime NOT NULL, `site` text NOT NULL, PRIMARY KEY (`id`), CONSTRAINT `machines_sites_machines` FOREIGN KEY (`site`) REFERENCES `sites` (`id`) ON DELETE NO ACTION);
-- create index "machine_site_address" to table: "machines"
CREATE UNIQUE INDEX `machine_site_address` ON `machines` (`site`, `address`);
-- create index "machine_smbios_uuid" to table: "machines"
CREATE INDEX `machine_smbios_uuid` ON `machines` (`smbios_uuid`);
-- create index "machine_serial" to table: "machines"
CREATE INDEX `machine_serial` ON `machines` (`serial`);
-- create index "machine_state" to table: "machines"
CREATE INDEX `machine_state` ON `machines` (`state`);
-- create "machine_facts" table
CREATE TABLE `machine_facts` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `memory_bytes` integer NULL, `cpu_model` text NULL, `cpu_vendor` text NULL, `cpu_architecture` text NULL, `cpu_cores` integer NULL, `cpu_threads` integer NULL, `cpu_sockets` integer NULL, `cpu_max_speed_mhz` integer NULL, `system_manufacturer` text NULL, `system_product` text NULL, `system_serial` text NULL, `bios_vendor` text NULL, `bios_version` text NULL, `bios_date` text NULL, `firmware_mode` text NULL, `secure_boot` bool NULL, `tpm_version` text NULL, `bmc_address` text NULL, `kernel_release` text NULL, `machine_id` uuid NOT NULL, CONSTRAINT `machine_facts_machines_facts` FOREIGN KEY (`machine_id`) REFERENCES `machines` (`id`) ON DELETE CASCADE);
-- create index "machine_facts_machine_id_key" to table: "machine_facts"
CREATE UNIQUE INDEX `machine_facts_machine_id_key` ON `machine_facts` (`machine_id`);
-- create index "machinefacts_memory_bytes" to table: "machine_facts"
CREATE INDEX `machinefacts_memory_bytes` ON `machine_facts` (`memory_bytes`);
-- create index "machinefacts_cpu_cores" to table: "machine_facts"
CREATE INDEX `machinefacts_cpu_cores` ON `machine_facts` (`cpu_cores`);
-- create index "machinefacts_system_manufacturer_system_product" to table: "machine_facts"
CREATE INDEX `machinefacts_system_manufacturer_system_product` ON `machine_facts` (`system_manufacturer`, `system_product`);
-- create index "machinefacts_system_serial" to table: "machine_facts"
CREATE INDEX `machinefacts_system_serial` ON `machine_facts` (`system_serial`);
-- create index "machinefacts_bios_version" to table: "machine_facts"
CREATE INDEX `machinefacts_bios_version` ON `machine_facts` (`bios_version`);
-- create "memory_modules" table
CREATE TABLE `memory_modules` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `locator` text NULL, `bytes` integer NULL, `type` text NULL, `speed_mts` integer NULL, `manufacturer` text NULL, `part` text NULL, `serial` text NULL, `ecc` bool NULL, `machine_id` uuid NOT NULL, CONSTRAINT `memory_modules_machines_memory_modules` FOREIGN KEY (`machine_id`) REFERENCES `machines` (`id`) ON DELETE CASCADE);
-- create index "memorymodule_machine_id" to table: "memory_modules"
CREATE INDEX `memorymodule_machine_id` ON `memory_modules` (`machine_id`);
-- create index "memorymodule_serial" to table: "memory_modules"
CREATE INDEX `memorymodule_serial` ON `memory_modules` (`serial`);
-- create index "memorymodule_part" to table: "memory_modules"
CREATE INDEX `memorymodule_part` ON `memory_modules` (`part`);
-- create "nics" table
CREATE TABLE `nics` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `name` text NULL, `mac` text NULL, `driver` text NULL, `pci` text NULL, `vendor` text NULL, `device` text NULL, `speed_mbps` integer NULL, `boot` bool NULL, `machine_id` uuid NOT NULL, CONSTRAINT `nics_machines_nics` FOREIGN KEY (`machine_id`) REFERENCES `machines` (`id`) ON DELETE CASCADE);
-- create index "nic_machine_id" to table: "nics"
CREATE INDEX `nic_machine_id` ON `nics` (`machine_id`);
-- create index "nic_mac" to table: "nics"
CREATE INDEX `nic_mac` ON `nics` (`mac`);
-- create index "nic_driver" to table: "nics"
CREATE INDEX `nic_driver` ON `nics` (`driver`);
-- create "notes" table
CREATE TABLE `notes` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `address` text NOT NULL, `key` text NOT NULL, `value` text NOT NULL, `time` datetime NOT NULL, `run_id` uuid NOT NULL, CONSTRAINT `notes_runs_notes` FOREIGN KEY (`run_id`) REFERENCES `runs` (`id`) ON DELETE CASCADE);
-- create index "note_run_id_address_key" to table: "notes"
CREATE UNIQUE INDEX `note_run_id_address_key` ON `notes` (`run_id`, `address`, `key`);
-- create index "note_address_key" to table: "notes"
CREATE INDEX `note_address_key` ON `notes` (`address`, `key`);
-- create "observations" table
CREATE TABLE `observations` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `source` text NOT NULL, `first_seen` datetime NOT NULL, `last_seen` datetime NOT NULL, `digest` text NOT NULL, `machine_id` uuid NOT NULL, CONSTRAINT `observations_documents_observations` FOREIGN KEY (`digest`) REFERENCES `documents` (`id`) ON DELETE NO ACTION, CONSTRAINT `observations_machines_observations` FOREIGN KEY (`machine_id`) REFERENCES `machines` (`id`) ON DELETE CASCADE);
-- create index "observation_machine_id" to table: "observations"
CREATE INDEX `observation_machine_id` ON `observations` (`machine_id`);
-- create index "observation_machine_id_source_first_seen" to table: "observations"
CREATE INDEX `observation_machine_id_source_first_seen` ON `observations` (`machine_id`, `source`, `first_seen`);
-- create index "observation_digest" to table: "observations"
CREATE INDEX `observation_digest` ON `observations` (`digest`);
-- create "pci_functions" table
CREATE TABLE `pci_functions` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `address` text NOT NULL, `class` text NULL, `vendor` text NULL, `device` text NULL, `driver` text NULL, `machine_id` uuid NOT NULL, CONSTRAINT `pci_functions_machines_pci_functions` FOREIGN KEY (`machine_id`) REFERENCES `machines` (`id`) ON DELETE CASCADE);
-- create index "pcifunction_machine_id" to table: "pci_functions"
CREATE INDEX `pcifunction_machine_id` ON `pci_functions` (`machine_id`);
-- create index "pcifunction_vendor_device" to table: "pci_functions"
CREATE INDEX `pcifunction_vendor_device` ON `pci_functions` (`vendor`, `device`);
-- create index "pcifunction_class" to table: "pci_functions"
CREATE INDEX `pcifunction_class` ON `pci_functions` (`class`);
-- create index "pcifunction_driver" to table: "pci_functions"
CREATE INDEX `pcifunction_driver` ON `pci_functions` (`driver`);
-- create "refusals" table
CREATE TABLE `refusals` (`id` text NOT NULL, `target` text NOT NULL, `time` datetime NOT NULL, PRIMARY KEY (`id`));
-- create "runs" table
CREATE TABLE `runs` (`id` uuid NOT NULL, `site` text NOT NULL, `plan_digest` text NOT NULL, `actions` json NULL, `state` text NOT NULL, `error` text NULL, `started_at` datetime NOT NULL, `finished_at` datetime NULL, `cancel_requested_at` datetime NULL, PRIMARY KEY (`id`));
-- create index "run_site_state" to table: "runs"
CREATE INDEX `run_site_state` ON `runs` (`site`, `state`);
-- create index "run_started_at" to table: "runs"
CREATE INDEX `run_started_at` ON `runs` (`started_at`);
-- create "settings" table
CREATE TABLE `settings` (`id` text NOT NULL, `value` blob NOT NULL, `updated_at` datetime NOT NULL, PRIMARY KEY (`id`));
-- create "sites" table
CREATE TABLE `sites` (`id` text NOT NULL, `labels` json NULL, `created_at` datetime NOT NULL, PRIMARY KEY (`id`));
-- create "steps" table
CREATE TABLE `steps` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `address` text NOT NULL, `attempt` integer NOT NULL, `state` text NOT NULL, `inputs_digest` text NOT NULL, `outputs` blob NULL, `error` text NULL, `started_at` datetime NOT NULL, `finished_at` datetime NULL, `run_id` uuid NOT NULL, CONSTRAINT `steps_runs_steps` FOREIGN KEY (`run_id`) REFERENCES `runs` (`id`) ON DELETE CASCADE);
-- create index "step_run_id_address_attempt" to table: "steps"
CREATE UNIQUE INDEX `step_run_id_address_attempt` ON `steps` (`run_id`, `address`, `attempt`);
