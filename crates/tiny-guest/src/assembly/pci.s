# PCI configuration space of bus 0 by the ports 0xCF8 and 0xCFC. A device is named by the address that selects its
# first register: bit 31 set, device number from bit 11.

.set PCI_ADDRESS_PORT, 0xcf8
.set PCI_DATA_PORT, 0xcfc
.set PCI_FIRST_DEVICE, 0x80000000
.set PCI_NEXT_DEVICE, 0x800
.set PCI_DEVICES, 32
.set PCI_COMMAND, 0x04
.set PCI_COMMAND_MEMORY_AND_MASTER, 6
.set PCI_FIRST_BAR, 0x10
.set PCI_CAPABILITIES, 0x34

# Reads the register at offset EAX of the device EBX into EAX.
pci_read:
    pushl %edx
    orl %ebx, %eax
    movw $PCI_ADDRESS_PORT, %dx
    outl %eax, %dx
    movw $PCI_DATA_PORT, %dx
    inl %dx, %eax
    popl %edx
    ret

# Writes ECX to the register at offset EAX of the device EBX.
pci_write:
    pushl %edx
    pushl %eax
    orl %ebx, %eax
    movw $PCI_ADDRESS_PORT, %dx
    outl %eax, %dx
    movl %ecx, %eax
    movw $PCI_DATA_PORT, %dx
    outl %eax, %dx
    popl %eax
    popl %edx
    ret

# Finds the device whose first register is EDX; EBX is its address, or 0. Changes EAX and ECX.
pci_find:
    movl $PCI_FIRST_DEVICE, %ebx
    movl $PCI_DEVICES, %ecx
1:
    xorl %eax, %eax
    call pci_read
    cmpl %edx, %eax
    je 2f
    addl $PCI_NEXT_DEVICE, %ebx
    decl %ecx
    jnz 1b
    xorl %ebx, %ebx
2:
    ret

# Lets the device EBX answer in memory and use it. Changes EAX and ECX.
pci_enable:
    movl $PCI_COMMAND, %eax
    call pci_read
    movl %eax, %ecx
    orl $PCI_COMMAND_MEMORY_AND_MASTER, %ecx
    andl $0xffff, %ecx
    movl $PCI_COMMAND, %eax
    jmp pci_write

# Reads the address of memory BAR number EAX of the device EBX into EAX. The upper half of a 64-bit BAR is taken to
# be zero: 32-bit code reaches no other.
pci_bar:
    leal PCI_FIRST_BAR(,%eax,4), %eax
    call pci_read
    andl $0xfffffff0, %eax
    ret
