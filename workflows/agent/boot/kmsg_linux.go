package boot

import "golang.org/x/sys/unix"

// syslogReadAll is SYSLOG_ACTION_READ_ALL of syslog(2).
const syslogReadAll = 3

// kernelLog returns the end of the kernel's message buffer.
func kernelLog() string {
	buffer := make([]byte, 16<<10)
	n, err := unix.Klogctl(syslogReadAll, buffer)
	if err != nil {
		return err.Error()
	}
	return string(buffer[:n])
}
