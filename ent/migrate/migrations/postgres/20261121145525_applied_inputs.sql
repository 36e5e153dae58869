-- modify "applied" table
ALTER TABLE "applied" ADD COLUMN "kind" character varying NULL, ADD COLUMN "inputs" bytea NULL, ADD COLUMN "attempt" bytea NULL, ADD COLUMN "depends_on" jsonb NULL;
