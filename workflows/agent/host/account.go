package host

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/edge-provision/edge-provision/workflows/agent"
)

// account is a line of passwd(5).
type account struct {
	name     string
	uid, gid int
	home     string
}

// The range of ordinary users, login.defs(5).
const (
	firstUID = 1000
	lastUID  = 59999
)

// accounts reads passwd(5) lines; what does not read as one is passed over, as
// libc does.
func accounts(passwd []byte) []account {
	var all []account
	for line := range strings.Lines(string(passwd)) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) != 7 {
			continue
		}
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if err1 == nil && err2 == nil {
			all = append(all, account{name: f[0], uid: uid, gid: gid, home: f[5]})
		}
	}
	return all
}

// idsIn returns the numbers in the third field of group(5) lines.
func idsIn(group []byte) map[int]bool {
	ids := make(map[int]bool)
	for line := range strings.Lines(string(group)) {
		if f := strings.Split(strings.TrimRight(line, "\n"), ":"); len(f) == 4 {
			if id, err := strconv.Atoi(f[2]); err == nil {
				ids[id] = true
			}
		}
	}
	return ids
}

// named reports whether a colon-separated file has a line for name.
func named(data []byte, name string) bool {
	return bytes.HasPrefix(data, []byte(name+":")) || bytes.Contains(data, []byte("\n"+name+":"))
}

// user makes sure that an account exists, takes the keys and, if told so, may
// become root.
func (t *tree) user(u agent.User) error {
	passwd, err := t.read("etc/passwd")
	if err != nil {
		return err
	}
	for _, a := range accounts(passwd) {
		if a.name == u.Name {
			return t.access(u, a)
		}
	}
	a, err := t.addUser(u, passwd)
	if err != nil {
		return fmt.Errorf("adding user %s: %w", u.Name, err)
	}
	return t.access(u, a)
}

// addUser adds an account with a group of its own. It has no password: '*'
// admits keys, where '!' would make sshd without PAM refuse it as locked.
func (t *tree) addUser(u agent.User, passwd []byte) (account, error) {
	group, err := t.read("etc/group")
	if err != nil {
		return account{}, err
	}
	if named(group, u.Name) {
		return account{}, fmt.Errorf("the image has a group of that name but no user: choose another name")
	}
	taken := idsIn(group)
	for _, a := range accounts(passwd) {
		taken[a.uid] = true
	}
	id := firstUID
	for taken[id] {
		id++
	}
	if id > lastUID {
		return account{}, fmt.Errorf("no user number from %d to %d is free", firstUID, lastUID)
	}
	a := account{name: u.Name, uid: id, gid: id, home: "/home/" + u.Name}
	shell := u.Shell
	if shell == "" {
		shell = "/bin/sh"
		if t.present("bin/bash") || t.present("usr/bin/bash") {
			shell = "/bin/bash"
		}
	}
	lines := []struct{ name, line string }{
		{"etc/group", fmt.Sprintf("%s:x:%d:", u.Name, id)},
		{"etc/gshadow", u.Name + ":!::"},
		{"etc/shadow", u.Name + ":*:19000:0:99999:7:::"},
		// passwd last: an account is there only when all of it is.
		{"etc/passwd", fmt.Sprintf("%s:x:%d:%d::%s:%s", u.Name, id, id, a.home, shell)},
	}
	for _, l := range lines {
		if l.name == "etc/gshadow" && !t.exists(l.name) {
			continue
		}
		if err := t.edit(l.name, func(data []byte) ([]byte, error) {
			if named(data, u.Name) {
				return data, nil
			}
			if len(data) > 0 && data[len(data)-1] != '\n' {
				data = append(data, '\n')
			}
			return append(data, l.line+"\n"...), nil
		}); err != nil {
			return account{}, err
		}
	}
	return a, nil
}

// access gives an account its keys and rights.
func (t *tree) access(u agent.User, a account) error {
	if u.Sudo {
		if !t.present("usr/bin/sudo") {
			return failing(agent.CodeImageContract, "user %s is to become root by sudo, which the image lacks: add the package sudo, or log in as root", u.Name)
		}
		rule := fmt.Sprintf("%s ALL=(ALL:ALL) NOPASSWD: ALL\n", u.Name)
		if err := t.write(file{name: "etc/sudoers.d/90-edge-provision-" + u.Name, data: []byte(rule), mode: 0o440}); err != nil {
			return err
		}
	}
	return t.authorize(a, u.Keys)
}

// authorize puts keys into an account's authorized_keys, in the place of what
// was there.
func (t *tree) authorize(a account, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	home := strings.TrimPrefix(path.Clean(a.home), "/")
	if home == "" || home == "." || !fs.ValidPath(home) {
		return failing(agent.CodeImageContract, "user %s has no usable home directory in the image: %q", a.name, a.home)
	}
	if err := t.mkdir(home, 0o700, a.uid, a.gid); err != nil {
		return err
	}
	dir := path.Join(home, ".ssh")
	if info, err := t.root.Lstat(dir); err == nil && !info.IsDir() {
		return failing(agent.CodeImageContract, "/%s in the image is not a directory: keys are not put there", dir)
	}
	if err := t.mkdir(dir, 0o700, a.uid, a.gid); err != nil {
		return err
	}
	return t.write(file{
		name: path.Join(dir, "authorized_keys"), data: []byte(strings.Join(keys, "\n") + "\n"),
		mode: 0o600, uid: a.uid, gid: a.gid,
	})
}

// rootKeys gives root its keys.
func (t *tree) rootKeys(keys []string) error {
	passwd, err := t.read("etc/passwd")
	if err != nil {
		return err
	}
	for _, a := range accounts(passwd) {
		if a.name == "root" {
			return t.authorize(a, keys)
		}
	}
	return failing(agent.CodeImageContract, "the image has no account root in /etc/passwd")
}
