// Package ent is the generated client of the catalog. Only the files under
// schema and migrate/migrations, and this one, are written by hand; everything
// else comes from go generate and is committed as it comes.
package ent

//go:generate go tool ent generate --feature sql/upsert,sql/versioned-migration,sql/lock,sql/execquery ./schema
