-- drop index "machinefacts_system_product" from table: "machine_facts"
DROP INDEX `machinefacts_system_product`;
-- create index "machinefacts_system_product_beginning" to table: "machine_facts"
CREATE INDEX `machinefacts_system_product_beginning` ON `machine_facts` (`system_product`, `machine_id`);
