// Package scenario holds the end-to-end scenarios: each drives the real
// programs, as a person would, against the emulated machines of a virtual rack.
// It has tests only, behind the build tag e2e: they need root, QEMU and some
// minutes each. `make e2e` runs them and ends with the time that each one took.
package scenario
