// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"tandem/machine"
	"tandem/machine/loader"
)

// why is the reason of a failed file operation without what every error repeats,
// the operation and the path.
func why(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// readFile reads a file that the machine starts from; role is what it is for.
// No path is no file.
func readFile(role, path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	bad := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("%s %s: %w; give the path of a file that can be read", role, path, why(err))
	}
	f, err := os.Open(path)
	if err != nil {
		return bad(err)
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return bad(err)
	case st.IsDir():
		return bad(errors.New("this is a folder"))
	case st.Size() > machine.MaxBootBytes:
		return bad(fmt.Errorf("it has %d MiB, at most %d can be loaded", st.Size()>>20, machine.MaxBootBytes>>20))
	}
	// A pipe or device has no size, and perhaps no end.
	in := bytes.NewBuffer(make([]byte, 0, st.Size()+bytes.MinRead))
	_, err = in.ReadFrom(io.LimitReader(f, machine.MaxBootBytes+1))
	b := in.Bytes()
	switch {
	case err != nil:
		return bad(err)
	case len(b) == 0:
		return nil, fmt.Errorf("%s %s: the file is empty: fetch it again", role, path)
	case len(b) > machine.MaxBootBytes:
		return bad(fmt.Errorf("it has more than %d MiB", machine.MaxBootBytes>>20))
	}
	return b, nil
}

// exclusive refuses flags that contradict each other.
func (v *vmFlags) exclusive(image bool) error {
	if v.kernel == "" && v.firmware == "" && v.elf == "" && !image {
		return usageError{errors.New("nothing to boot: give an IMAGE, --kernel, --firmware or --elf")}
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"the IMAGE", image}, {"--firmware", v.firmware != ""}, {"--kernel", v.kernel != ""},
		{"--initrd", v.initrd != ""}, {"--append", v.append != ""},
	} {
		if v.elf != "" && f.set {
			return usageError{fmt.Errorf("--elf runs a program alone: leave out %s", f.name)}
		}
	}
	return nil
}

// boot reads the files and chooses what the machine starts from.
func (v *vmFlags) boot(out *vm) error {
	var kernel, initrd, firmware, elf []byte
	for _, f := range []struct {
		to         *[]byte
		role, path string
	}{
		{&kernel, "kernel", v.kernel}, {&initrd, "initrd", v.initrd},
		{&firmware, "firmware", v.firmware}, {&elf, "program", v.elf},
	} {
		var err error
		if *f.to, err = readFile(f.role, f.path); err != nil {
			return err
		}
	}
	var err error
	name := v.kernel
	switch ram := out.config.RAM; {
	case v.elf != "":
		name = v.elf
		out.program, err = loader.ELF(ram, elf)
		out.config.Boot = out.program.Boot
	case v.firmware != "":
		out.config.Boot, err = loader.Firmware(ram, firmware, kernel, initrd)
		if next := (loader.NextError{}); !errors.As(err, &next) {
			name = v.firmware
		}
	default:
		out.config.Boot, err = loader.Kernel(ram, kernel, initrd)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
