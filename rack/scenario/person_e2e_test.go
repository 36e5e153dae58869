//go:build e2e

package scenario

import (
	"bytes"
	"errors"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/edge-provision/edge-provision/workflows/keyring"
)

// ssh runs a command on an installed machine as root, with the controller's own
// key. code is -1 when the machine did not answer.
func (l *lab) ssh(address, command string) result {
	l.t.Helper()
	catalog := l.open()
	defer catalog.Close()
	keys, err := keyring.Open(l.t.Context(), keyring.Config{KeyFile: filepath.Join(l.data, "key"), Values: catalog.Settings()})
	if err != nil {
		l.t.Fatalf("opening the keyring = %v", err)
	}
	signer, _, err := keys.SSH(l.t.Context(), "edge-provision@"+l.name)
	if err != nil {
		l.t.Fatalf("reading the controller's key = %v", err)
	}
	r, err := l.session(signer, address, command)
	l.t.Logf("%s on %s = exit %d, %v\n%s%s", command, address, r.code, err, r.stdout, r.stderr)
	return r
}

func (l *lab) session(signer ssh.Signer, address, command string) (result, error) {
	var conn net.Conn
	err := l.rack.Enter(func() (err error) {
		conn, err = net.DialTimeout("tcp", address, 20*time.Second)
		return err
	})
	if err != nil {
		return result{code: -1}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return result{code: -1}, err
	}
	c, channels, requests, err := ssh.NewClientConn(conn, address, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), // whether it is the right machine is what apply checks
	})
	if err != nil {
		return result{code: -1}, err
	}
	client := ssh.NewClient(c, channels, requests)
	defer client.Close()
	s, err := client.NewSession()
	if err != nil {
		return result{code: -1}, err
	}
	var stdout, stderr bytes.Buffer
	s.Stdout, s.Stderr = &stdout, &stderr
	err = s.Run(command)
	r := result{stdout: stdout.String(), stderr: stderr.String()}
	var exit *ssh.ExitError
	switch {
	case errors.As(err, &exit):
		r.code = exit.ExitStatus()
	case err != nil:
		r.code = -1
	}
	return r, err
}
