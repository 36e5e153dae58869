-- add column "kind" to table: "applied"
ALTER TABLE `applied` ADD COLUMN `kind` text NULL;
-- add column "inputs" to table: "applied"
ALTER TABLE `applied` ADD COLUMN `inputs` blob NULL;
-- add column "attempt" to table: "applied"
ALTER TABLE `applied` ADD COLUMN `attempt` blob NULL;
-- add column "depends_on" to table: "applied"
ALTER TABLE `applied` ADD COLUMN `depends_on` json NULL;
