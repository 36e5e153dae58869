package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"unicode/utf16"

	"github.com/edge-provision/edge-provision/imagebuilder/gpt"
)

const (
	// efiGlobal is EFI_GLOBAL_VARIABLE (UEFI 2.10 section 3.3).
	efiGlobal = "-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	// efiAttributes: non-volatile, boot service and runtime access.
	efiAttributes = 0x7
	// loaderPath is the loader that every image has: the default of removable
	// media, which needs no entry on most firmware (UEFI 2.10 section 3.5.1.1).
	loaderPath = `\EFI\BOOT\BOOTX64.EFI`
	// entryName starts the description of our entries.
	entryName = "edge-provision"
	// maxEFIBytes bounds one variable.
	maxEFIBytes = 64 << 10
)

var bootVariable = regexp.MustCompile(`^Boot([0-9A-F]{4})` + efiGlobal + `$`)

// setBootEntry makes the firmware start the written disk first. Entries of
// others stay; an older one of ours is used again, because firmware has little
// room.
func (h *Host) setBootEntry(table *gpt.Table, site string) (string, error) {
	if h.cfg.EFI == "" {
		return "", errors.New("the machine booted in BIOS mode, which has no boot entries")
	}
	var esp *gpt.Partition
	for i := range table.Partitions {
		if table.Partitions[i].Type == gpt.EFISystem {
			esp = &table.Partitions[i]
			break
		}
	}
	if esp == nil {
		return "", errors.New("the disk has no EFI system partition")
	}
	vars := efiVars(h.cfg.EFI)
	number, err := vars.pick()
	if err != nil {
		return "", err
	}
	description := entryName
	if site != "" {
		description += " " + site
	}
	name := fmt.Sprintf("Boot%04X", number)
	if err := vars.write(name, loadOption(description, *esp)); err != nil {
		return "", err
	}
	order, err := vars.read("BootOrder")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := vars.write("BootOrder", orderFirst(order, number)); err != nil {
		return "", err
	}
	// Some firmware puts its own entries before ours again at each start; the
	// next boot at least does not ask the network first (UEFI 2.10 section 3.1.1).
	if err := vars.write("BootNext", binary.LittleEndian.AppendUint16(nil, number)); err != nil {
		return "", err
	}
	return name, nil
}

// orderFirst puts number first in a list of little-endian words.
func orderFirst(order []byte, number uint16) []byte {
	first := binary.LittleEndian.AppendUint16(nil, number)
	for ; len(order) >= 2; order = order[2:] {
		if !bytes.Equal(order[:2], first[:2]) {
			first = append(first, order[:2]...)
		}
	}
	return first
}

// loadOption is an EFI_LOAD_OPTION (UEFI 2.10 section 3.1.3) whose device path is
// a hard drive node (10.3.5.1) and a file path node (10.3.5.4).
func loadOption(description string, esp gpt.Partition) []byte {
	hard := []byte{4, 1, 42, 0}
	hard = binary.LittleEndian.AppendUint32(hard, uint32(esp.Number))
	hard = binary.LittleEndian.AppendUint64(hard, esp.FirstLBA)
	hard = binary.LittleEndian.AppendUint64(hard, esp.LastLBA-esp.FirstLBA+1)
	g := esp.GUID
	// The first three fields of a GUID are little-endian on disk.
	hard = append(hard, g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6])
	hard = append(hard, g[8:]...)
	hard = append(hard, 2, 2) // GPT, signature is a GUID

	text := ucs2(loaderPath)
	path := append([]byte{4, 4}, binary.LittleEndian.AppendUint16(nil, uint16(4+len(text)))...)
	path = append(path, text...)
	path = append(append(hard, path...), 0x7f, 0xff, 4, 0)

	const active = 1
	option := binary.LittleEndian.AppendUint32(nil, active)
	option = binary.LittleEndian.AppendUint16(option, uint16(len(path)))
	option = append(option, ucs2(description)...)
	return append(option, path...)
}

// ucs2 is s in little-endian UTF-16 with a final NUL.
func ucs2(s string) []byte {
	var b []byte
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// efiVars is a directory of efivarfs: a file per variable, four bytes of
// attributes before the value.
type efiVars string

func (v efiVars) read(name string) ([]byte, error) {
	raw, err := os.ReadFile(filepath.Join(string(v), name+efiGlobal))
	if err != nil {
		return nil, fmt.Errorf("reading firmware variable %s: %w", name, err)
	}
	if len(raw) < 4 || len(raw) > maxEFIBytes {
		return nil, fmt.Errorf("firmware variable %s has %d bytes", name, len(raw))
	}
	return raw[4:], nil
}

// write replaces a variable. The kernel makes variables immutable so that a
// careless rm does not break a machine; that is taken back first.
func (v efiVars) write(name string, value []byte) error {
	path := filepath.Join(string(v), name+efiGlobal)
	raw := append(binary.LittleEndian.AppendUint32(nil, efiAttributes), value...)
	if old, err := os.ReadFile(path); err == nil {
		if bytes.Equal(old, raw) {
			return nil
		}
		if err := makeMutable(path); err != nil {
			return fmt.Errorf("writing firmware variable %s: %w", name, err)
		}
	}
	// One write call: the kernel takes each as the whole variable.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("writing firmware variable %s: %w", name, err)
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing firmware variable %s: %w", name, err)
	}
	return nil
}

// pick returns the number of our entry, or the first that is free.
func (v efiVars) pick() (uint16, error) {
	entries, err := os.ReadDir(string(v))
	if err != nil {
		return 0, fmt.Errorf("reading the firmware's variables: %w", err)
	}
	var taken []uint16
	for _, e := range entries {
		m := bootVariable.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		n, err := strconv.ParseUint(m[1], 16, 16)
		if err != nil {
			continue
		}
		value, err := v.read("Boot" + m[1])
		if err == nil && len(value) > 6 && bytes.HasPrefix(value[6:], ucs2(entryName)[:2*len(entryName)]) {
			return uint16(n), nil
		}
		taken = append(taken, uint16(n))
	}
	for n := uint16(0); n < 0x1000; n++ {
		if !slices.Contains(taken, n) {
			return n, nil
		}
	}
	return 0, errors.New("the firmware has no room for another boot entry")
}
