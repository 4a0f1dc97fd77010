// SPDX-License-Identifier: Apache-2.0

package certs

// Replica is the name under which a VM's replicas keep their certificate.
const Replica = "replica"
