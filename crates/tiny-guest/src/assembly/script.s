# A guest that follows steps, which its host wrote in place of a message. A step has 16 bytes:
#
#   0 operation   1 width (1, 2 or 4)   2 place   4 address   8 value   12 count
#
# What each operation makes of them is said at its label, and in the crate's `script` module, which writes them.

.set STEP_WIDTH, 1
.set STEP_PLACE, 2
.set STEP_ADDRESS, 4
.set STEP_VALUE, 8
.set STEP_COUNT, 12
.set STEP_BYTES, 16

# Where an address counts from.
.set PLACE_MEMORY, 0
.set PLACE_COMMON, 1
.set PLACE_NOTIFY, 2
.set PLACE_CONFIGURATION, 3
.set PLACE_PORT, 4

guest_script:
    fetch parameter_message, %esi
    store %esi, script_step
1:
    fetch script_step, %esi
    movzbl (%esi), %eax
    address script_operations, %edx
    movl (%edx,%eax,4), %eax
    call *%eax
    fetch script_step, %esi
    addl $STEP_BYTES, %esi
    store %esi, script_step
    jmp 1b

# The order is that of `Operation` in the crate's `script` module. All are called with ESI at their step.
.balign 4
script_operations:
    guest power_off
    guest script_open
    guest script_open_queue
    guest virtio_start
    guest script_write
    guest script_say
    guest script_text
    guest script_await
    guest script_submit
    guest script_wait
    guest script_await_clear

# Finds the device whose first PCI register is the address, resets it and negotiates the features in the value.
script_open:
    xorl %eax, %eax
    store %eax, virtio_common
    store %eax, virtio_notify
    store %eax, virtio_device
    movl STEP_ADDRESS(%esi), %edx
    movl STEP_VALUE(%esi), %ecx
    call virtio_open
    store %ebx, script_device
    ret

# Sets up the queue in the value, 0 to 2.
script_open_queue:
    movl STEP_VALUE(%esi), %eax
    jmp virtio_open_queue

# Writes the value as often as the count says; a count of 0 is as good as for ever.
script_write:
    movl STEP_COUNT(%esi), %ecx
1:
    call script_put
    decl %ecx
    jnz 1b
    ret

# Reads and says the number, and ends the line.
script_say:
    call script_get
    call serial_put_hex
    jmp serial_end_line

# Says the text of at most 11 bytes that begins where the address is otherwise.
script_text:
    leal STEP_ADDRESS(%esi), %esi
    jmp serial_put_text

# Reads until any bit of the value is set.
script_await:
    pause
    call script_get
    testl %eax, STEP_VALUE(%esi)
    jz script_await
    ret

# Reads until no bit of the value is set.
script_await_clear:
    pause
    call script_get
    testl %eax, STEP_VALUE(%esi)
    jnz script_await_clear
    ret

# Makes the chain at the descriptor in the value available in the queue in the address, and rings.
script_submit:
    movl STEP_ADDRESS(%esi), %eax
    movl STEP_VALUE(%esi), %ecx
    jmp virtio_submit

# Waits for a used chain of the queue in the address.
script_wait:
    movl STEP_ADDRESS(%esi), %eax
    jmp virtio_wait

# Writes the step's value to its place. Changes EAX, EDX and EDI.
script_put:
    call script_locate
    movl STEP_VALUE(%esi), %eax
    jc 3f
    cmpb $2, STEP_WIDTH(%esi)
    je 1f
    ja 2f
    movb %al, (%edi)
    ret
1:
    movw %ax, (%edi)
    ret
2:
    movl %eax, (%edi)
    ret
3:
    cmpb $2, STEP_WIDTH(%esi)
    je 4f
    ja 5f
    outb %al, %dx
    ret
4:
    outw %ax, %dx
    ret
5:
    outl %eax, %dx
    ret

# Reads the step's place into EAX. Changes EDX and EDI.
script_get:
    call script_locate
    movl $0, %eax
    jc 3f
    cmpb $2, STEP_WIDTH(%esi)
    je 1f
    ja 2f
    movb (%edi), %al
    ret
1:
    movw (%edi), %ax
    ret
2:
    movl (%edi), %eax
    ret
3:
    cmpb $2, STEP_WIDTH(%esi)
    je 4f
    ja 5f
    inb %dx, %al
    ret
4:
    inw %dx, %ax
    ret
5:
    inl %dx, %eax
    ret

# Where the step's place is: memory at EDI, or with the carry flag set the port DX. Changes EAX.
script_locate:
    movl STEP_ADDRESS(%esi), %edi
    movl %edi, %edx
    movzbl STEP_PLACE(%esi), %eax
    cmpl $PLACE_PORT, %eax
    je 3f
    cmpl $PLACE_CONFIGURATION, %eax
    je 2f
    cmpl $PLACE_COMMON, %eax
    jb 1f
    fetch virtio_common, %eax
    je 4f
    fetch virtio_notify, %eax
4:
    addl %eax, %edi
1:
    clc
    ret
2:
    # A register of the device: its double word by the address port, its bytes by their place in the data port.
    fetch script_device, %eax
    andl $0xfc, %edx
    orl %edx, %eax
    movw $PCI_ADDRESS_PORT, %dx
    outl %eax, %dx
    movl %edi, %edx
    andl $3, %edx
    addl $PCI_DATA_PORT, %edx
3:
    stc
    ret

.balign 4
script_step: .long 0
script_device: .long 0
