// SPDX-License-Identifier: Apache-2.0

package riscv

// CSR is the number of a control and status register (Priv. ch. 2).
type CSR uint16

const (
	CSRFFlags CSR = 0x001
	CSRFRM    CSR = 0x002
	CSRFCSR   CSR = 0x003

	CSRCycle   CSR = 0xc00
	CSRTime    CSR = 0xc01
	CSRInstret CSR = 0xc02

	CSRSStatus    CSR = 0x100
	CSRSIE        CSR = 0x104
	CSRSTVec      CSR = 0x105
	CSRSCounterEn CSR = 0x106
	CSRSEnvCfg    CSR = 0x10a
	CSRSScratch   CSR = 0x140
	CSRSEPC       CSR = 0x141
	CSRSCause     CSR = 0x142
	CSRSTVal      CSR = 0x143
	CSRSIP        CSR = 0x144
	CSRSTimeCmp   CSR = 0x14d
	CSRSATP       CSR = 0x180

	CSRMVendorID     CSR = 0xf11
	CSRMArchID       CSR = 0xf12
	CSRMImpID        CSR = 0xf13
	CSRMHartID       CSR = 0xf14
	CSRMConfigPtr    CSR = 0xf15
	CSRMStatus       CSR = 0x300
	CSRMISA          CSR = 0x301
	CSRMEDeleg       CSR = 0x302
	CSRMIDeleg       CSR = 0x303
	CSRMIE           CSR = 0x304
	CSRMTVec         CSR = 0x305
	CSRMCounterEn    CSR = 0x306
	CSRMEnvCfg       CSR = 0x30a
	CSRMCountInhibit CSR = 0x320
	CSRMHPMEvent3    CSR = 0x323
	CSRMScratch      CSR = 0x340
	CSRMEPC          CSR = 0x341
	CSRMCause        CSR = 0x342
	CSRMTVal         CSR = 0x343
	CSRMIP           CSR = 0x344
	CSRPMPCfg0       CSR = 0x3a0
	CSRPMPAddr0      CSR = 0x3b0
	CSRMCycle        CSR = 0xb00
	CSRMInstret      CSR = 0xb02
	CSRMHPMCounter3  CSR = 0xb03
	CSRHPMCounter3   CSR = 0xc03
	CSRTSelect       CSR = 0x7a0
	CSRTData1        CSR = 0x7a1
	CSRTData2        CSR = 0x7a2
	CSRTData3        CSR = 0x7a3
)

// Cause is a trap cause as in mcause and scause (Priv. table 14).
type Cause uint64

// Interrupt is the bit that tells an interrupt from an exception.
const Interrupt Cause = 1 << 63

const (
	FetchMisaligned  Cause = 0
	FetchAccess      Cause = 1
	IllegalInst      Cause = 2
	Breakpoint       Cause = 3
	LoadMisaligned   Cause = 4
	LoadAccess       Cause = 5
	StoreMisaligned  Cause = 6
	StoreAccess      Cause = 7
	EcallU           Cause = 8
	EcallS           Cause = 9
	EcallM           Cause = 11
	FetchPageFault   Cause = 12
	LoadPageFault    Cause = 13
	StorePageFault   Cause = 15
	SoftwareCheck    Cause = 18
	SupervisorSoft         = Interrupt | 1
	MachineSoft            = Interrupt | 3
	SupervisorTimer        = Interrupt | 5
	MachineTimer           = Interrupt | 7
	SupervisorExtern       = Interrupt | 9
	MachineExtern          = Interrupt | 11
)

// Interrupt bits of mip, mie and mideleg.
const (
	SSIP uint64 = 1 << 1
	MSIP uint64 = 1 << 3
	STIP uint64 = 1 << 5
	MTIP uint64 = 1 << 7
	SEIP uint64 = 1 << 9
	MEIP uint64 = 1 << 11
)

// Fields of mstatus (Priv. 3.1.6).
const (
	StatusSIE  uint64 = 1 << 1
	StatusMIE  uint64 = 1 << 3
	StatusSPIE uint64 = 1 << 5
	StatusMPIE uint64 = 1 << 7
	StatusSPP  uint64 = 1 << 8
	StatusMPP  uint64 = 3 << 11
	StatusFS   uint64 = 3 << 13
	StatusMPRV uint64 = 1 << 17
	StatusSUM  uint64 = 1 << 18
	StatusMXR  uint64 = 1 << 19
	StatusTVM  uint64 = 1 << 20
	StatusTW   uint64 = 1 << 21
	StatusTSR  uint64 = 1 << 22
	StatusUXL  uint64 = 3 << 32
	StatusSXL  uint64 = 3 << 34
	StatusSD   uint64 = 1 << 63
)

// Fields of menvcfg and senvcfg (Priv. 3.1.18, 10.1.10).
const (
	EnvFIOM  uint64 = 1 << 0
	EnvCBIE  uint64 = 3 << 4
	EnvCBCFE uint64 = 1 << 6
	EnvCBZE  uint64 = 1 << 7
	EnvADUE  uint64 = 1 << 61
	EnvPBMTE uint64 = 1 << 62
	EnvSTCE  uint64 = 1 << 63
)

// Privilege is a privilege mode.
type Privilege uint8

const (
	User       Privilege = 0
	Supervisor Privilege = 1
	Machine    Privilege = 3
)

// Fields of a page table entry (Priv. 11.3.1, 11.4.1, Svnapot, Svpbmt).
const (
	PTEV    uint64 = 1 << 0
	PTER    uint64 = 1 << 1
	PTEW    uint64 = 1 << 2
	PTEX    uint64 = 1 << 3
	PTEU    uint64 = 1 << 4
	PTEG    uint64 = 1 << 5
	PTEA    uint64 = 1 << 6
	PTED    uint64 = 1 << 7
	PTEPBMT uint64 = 3 << 61
	PTEN    uint64 = 1 << 63
	// PTEReserved must be zero.
	PTEReserved uint64 = 0x7f << 54
)
