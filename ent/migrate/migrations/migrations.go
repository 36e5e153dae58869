// Package migrations holds the versioned migrations of the catalog, one folder
// per database, each with its checksum file. ent writes the first draft of a
// migration (go run ent/migrate/main.go NAME); a person reviews it, and once
// released it never changes.
package migrations

import "embed"

// Files has the folders sqlite3 and postgres, named as ent names the dialects.
//
//go:embed sqlite3 postgres
var Files embed.FS
