#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# After files of units came or went. Nothing is enabled or started, and nothing
# stopped: VMs outlive an upgrade of their program.
if command -v systemd-sysusers >/dev/null && [ -e /usr/lib/sysusers.d/tandem.conf ]; then
	systemd-sysusers tandem.conf || true
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
