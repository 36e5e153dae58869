-- disable the enforcement of foreign-keys constraints
PRAGMA foreign_keys = off;
-- create "new_machine_facts" table
CREATE TABLE `new_machine_facts` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `memory_bytes` integer NULL, `cpu_model` text NULL, `cpu_vendor` text NULL, `cpu_architecture` text NULL, `cpu_cores` integer NULL, `cpu_threads` integer NULL, `cpu_sockets` integer NULL, `cpu_max_speed_mhz` integer NULL, `system_manufacturer` text NULL, `system_product` text NULL, `system_serial` text NULL, `bios_vendor` text NULL, `bios_version` text NULL, `bios_date` text NULL, `firmware_mode` text NULL, `secure_boot` bool NULL, `tpm_version` text NULL, `bmc_address` text NULL, `kernel_release` text NULL, `disks_observed` bool NOT NULL DEFAULT (false), `nics_observed` bool NOT NULL DEFAULT (false), `memory_modules_observed` bool NOT NULL DEFAULT (false), `pci_functions_observed` bool NOT NULL DEFAULT (false), `neighbors_observed` bool NOT NULL DEFAULT (false), `machine_id` uuid NOT NULL, CONSTRAINT `machine_facts_machines_facts` FOREIGN KEY (`machine_id`) REFERENCES `machines` (`id`) ON DELETE CASCADE);
-- copy rows from old table "machine_facts" to new temporary table "new_machine_facts"
INSERT INTO `new_machine_facts` (`id`, `memory_bytes`, `cpu_model`, `cpu_vendor`, `cpu_architecture`, `cpu_cores`, `cpu_threads`, `cpu_sockets`, `cpu_max_speed_mhz`, `system_manufacturer`, `system_product`, `system_serial`, `bios_vendor`, `bios_version`, `bios_date`, `firmware_mode`, `secure_boot`, `tpm_version`, `bmc_address`, `kernel_release`, `machine_id`) SELECT `id`, `memory_bytes`, `cpu_model`, `cpu_vendor`, `cpu_architecture`, `cpu_cores`, `cpu_threads`, `cpu_sockets`, `cpu_max_speed_mhz`, `system_manufacturer`, `system_product`, `system_serial`, `bios_vendor`, `bios_version`, `bios_date`, `firmware_mode`, `secure_boot`, `tpm_version`, `bmc_address`, `kernel_release`, `machine_id` FROM `machine_facts`;
-- drop "machine_facts" table after copying rows
DROP TABLE `machine_facts`;
-- rename temporary table "new_machine_facts" to "machine_facts"
ALTER TABLE `new_machine_facts` RENAME TO `machine_facts`;
-- create index "machine_facts_machine_id_key" to table: "machine_facts"
CREATE UNIQUE INDEX `machine_facts_machine_id_key` ON `machine_facts` (`machine_id`);
-- create index "machinefacts_memory_bytes_machine_id" to table: "machine_facts"
CREATE INDEX `machinefacts_memory_bytes_machine_id` ON `machine_facts` (`memory_bytes`, `machine_id`);
-- create index "machinefacts_cpu_cores_machine_id" to table: "machine_facts"
CREATE INDEX `machinefacts_cpu_cores_machine_id` ON `machine_facts` (`cpu_cores`, `machine_id`);
-- create index "machinefacts_system_manufacturer_system_product" to table: "machine_facts"
CREATE INDEX `machinefacts_system_manufacturer_system_product` ON `machine_facts` (`system_manufacturer`, `system_product`);
-- create index "machinefacts_system_product_machine_id" to table: "machine_facts"
CREATE INDEX `machinefacts_system_product_machine_id` ON `machine_facts` (`system_product`, `machine_id`);
-- create index "machinefacts_system_product" to table: "machine_facts"
CREATE INDEX `machinefacts_system_product` ON `machine_facts` (`system_product`);
-- create index "machinefacts_system_serial" to table: "machine_facts"
CREATE INDEX `machinefacts_system_serial` ON `machine_facts` (`system_serial`);
-- create index "machinefacts_bios_version_machine_id" to table: "machine_facts"
CREATE INDEX `machinefacts_bios_version_machine_id` ON `machine_facts` (`bios_version`, `machine_id`);
-- create "neighbors" table
CREATE TABLE `neighbors` (`id` integer NOT NULL PRIMARY KEY AUTOINCREMENT, `mac` text NULL, `chassis` text NULL, `port` text NULL, `port_description` text NULL, `system` text NULL, `address` text NULL, `vlan` integer NULL, `machine_id` uuid NOT NULL, CONSTRAINT `neighbors_machines_neighbors` FOREIGN KEY (`machine_id`) REFERENCES `machines` (`id`) ON DELETE CASCADE);
-- create index "neighbor_machine_id" to table: "neighbors"
CREATE INDEX `neighbor_machine_id` ON `neighbors` (`machine_id`);
-- create index "neighbor_mac" to table: "neighbors"
CREATE INDEX `neighbor_mac` ON `neighbors` (`mac`);
-- create index "neighbor_chassis" to table: "neighbors"
CREATE INDEX `neighbor_chassis` ON `neighbors` (`chassis`);
-- create index "neighbor_system_machine_id" to table: "neighbors"
CREATE INDEX `neighbor_system_machine_id` ON `neighbors` (`system`, `machine_id`);
-- enable back the enforcement of foreign-keys constraints
PRAGMA foreign_keys = on;
