package steps_test

import (
	"os"
	"strconv"
)

// owner and group are those of the test: it may give files to nobody else.
func owner() string { return strconv.Itoa(os.Getuid()) }
func group() string { return strconv.Itoa(os.Getgid()) }
