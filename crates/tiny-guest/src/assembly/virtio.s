# A virtio 1.x driver over PCI (virtio 1.2, section 4.1): find the device, negotiate, up to three split queues, polling.

.set VIRTIO_CAPABILITY, 0x09
.set VIRTIO_CAPABILITIES_LIMIT, 48
.set VIRTIO_COMMON_CONFIG, 1
.set VIRTIO_NOTIFY_CONFIG, 2
.set VIRTIO_DEVICE_CONFIG, 4

# The common configuration (section 4.1.4.3).
.set COMMON_DEVICE_FEATURE_SELECT, 0
.set COMMON_DEVICE_FEATURE, 4
.set COMMON_DRIVER_FEATURE_SELECT, 8
.set COMMON_DRIVER_FEATURE, 12
.set COMMON_DEVICE_STATUS, 20
.set COMMON_QUEUE_SELECT, 22
.set COMMON_QUEUE_SIZE, 24
.set COMMON_QUEUE_ENABLE, 28
.set COMMON_QUEUE_NOTIFY_OFFSET, 30
.set COMMON_QUEUE_DESCRIPTORS, 32
.set COMMON_QUEUE_AVAILABLE, 40
.set COMMON_QUEUE_USED, 48

.set STATUS_ACKNOWLEDGE, 1
.set STATUS_DRIVER, 2
.set STATUS_DRIVER_OK, 4
.set STATUS_FEATURES_OK, 8
# VIRTIO_F_VERSION_1 is feature 32: bit 0 of the second word.
.set FEATURE_VERSION_1, 1

.set DESCRIPTOR_NEXT, 1
.set DESCRIPTOR_WRITE, 2

# Each queue has three pages: descriptors, available ring, used ring. Buffers follow the queues.
.set QUEUES, IMAGE_BASE + 0x4000
.set QUEUE_BYTES, 0x3000
.set QUEUE_AVAILABLE, 0x1000
.set QUEUE_USED, 0x2000
.set QUEUE_LONGEST, 16
.set QUEUES_MOST, 3
.set BUFFERS, QUEUES + QUEUES_MOST * QUEUE_BYTES

# Fills in a descriptor of a queue.
.macro describe queue, slot, address, length, flags, next
    movl $(\address), QUEUES + \queue * QUEUE_BYTES + \slot * 16
    movl $0, QUEUES + \queue * QUEUE_BYTES + \slot * 16 + 4
    movl $(\length), QUEUES + \queue * QUEUE_BYTES + \slot * 16 + 8
    movw $(\flags), QUEUES + \queue * QUEUE_BYTES + \slot * 16 + 12
    movw $(\next), QUEUES + \queue * QUEUE_BYTES + \slot * 16 + 14
.endm

# Says a text and ends the machine.
.macro fail label
    address \label, %esi
    jmp virtio_fail
.endm
virtio_fail:
    call serial_put_text
    jmp power_off

# Finds the device whose first PCI register is EDX and where its configurations are; negotiates VERSION_1 and those
# of the features in ECX (0 to 31) that it offers. Changes every register but ESP.
virtio_open:
    store %ecx, virtio_wanted
    call pci_find
    testl %ebx, %ebx
    jnz 1f
    fail text_no_device
1:
    call pci_enable
    call virtio_find_configurations
    fetch virtio_common, %ebp
    testl %ebp, %ebp
    jnz 2f
    fail text_no_configuration
2:
    movb $0, COMMON_DEVICE_STATUS(%ebp)
3:
    movb COMMON_DEVICE_STATUS(%ebp), %al
    testb %al, %al
    jnz 3b
    movb $STATUS_ACKNOWLEDGE, COMMON_DEVICE_STATUS(%ebp)
    movb $(STATUS_ACKNOWLEDGE | STATUS_DRIVER), COMMON_DEVICE_STATUS(%ebp)
    jmp virtio_negotiate

# Walks the capabilities of the device EBX and keeps the first of each kind.
virtio_find_configurations:
    movl $VIRTIO_CAPABILITIES_LIMIT, %ecx
    movl $PCI_CAPABILITIES, %eax
    call pci_read
    movl %eax, %edi
1:
    andl $0xfc, %edi
    jz 3f
    movl %edi, %eax
    call pci_read
    movl %eax, %edx
    cmpb $VIRTIO_CAPABILITY, %dl
    jne 2f
    call virtio_keep_configuration
2:
    movzbl %dh, %edi
    decl %ecx
    jnz 1b
3:
    ret

# Keeps the capability at EDI of the device EBX, whose first register is EDX. Changes EAX and ESI.
virtio_keep_configuration:
    leal 4(%edi), %eax
    call pci_read
    movzbl %al, %eax
    call pci_bar
    movl %eax, %esi
    leal 8(%edi), %eax
    call pci_read
    addl %eax, %esi
    movl %edx, %eax
    shrl $24, %eax
    cmpl $VIRTIO_COMMON_CONFIG, %eax
    je 1f
    cmpl $VIRTIO_NOTIFY_CONFIG, %eax
    je 2f
    cmpl $VIRTIO_DEVICE_CONFIG, %eax
    je 3f
    ret
1:
    fetch virtio_common, %eax
    testl %eax, %eax
    jnz 4f
    store %esi, virtio_common
    ret
2:
    fetch virtio_notify, %eax
    testl %eax, %eax
    jnz 4f
    store %esi, virtio_notify
    leal 16(%edi), %eax
    call pci_read
    store %eax, virtio_notify_multiplier
    ret
3:
    fetch virtio_device, %eax
    testl %eax, %eax
    jnz 4f
    store %esi, virtio_device
4:
    ret

virtio_negotiate:
    movl $0, COMMON_DEVICE_FEATURE_SELECT(%ebp)
    movl COMMON_DEVICE_FEATURE(%ebp), %eax
    fetch virtio_wanted, %ecx
    andl %ecx, %eax
    movl $0, COMMON_DRIVER_FEATURE_SELECT(%ebp)
    movl %eax, COMMON_DRIVER_FEATURE(%ebp)
    movl $1, COMMON_DEVICE_FEATURE_SELECT(%ebp)
    movl COMMON_DEVICE_FEATURE(%ebp), %eax
    testl $FEATURE_VERSION_1, %eax
    jz 1f
    movl $1, COMMON_DRIVER_FEATURE_SELECT(%ebp)
    movl $FEATURE_VERSION_1, COMMON_DRIVER_FEATURE(%ebp)
    movb $(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK), COMMON_DEVICE_STATUS(%ebp)
    movb COMMON_DEVICE_STATUS(%ebp), %al
    testb $STATUS_FEATURES_OK, %al
    jz 1f
    ret
1:
    fail text_no_agreement

# Sets up queue EAX, below QUEUES_MOST. Changes EAX, ECX, EDX and EDI.
virtio_open_queue:
    fetch virtio_common, %ebp
    movl %eax, %edi
    movw %ax, COMMON_QUEUE_SELECT(%ebp)
    movzwl COMMON_QUEUE_SIZE(%ebp), %ecx
    testl %ecx, %ecx
    jnz 1f
    fail text_no_queue
1:
    cmpl $QUEUE_LONGEST, %ecx
    jbe 2f
    movl $QUEUE_LONGEST, %ecx
    movw %cx, COMMON_QUEUE_SIZE(%ebp)
2:
    decl %ecx
    address virtio_queue_mask, %edx
    movl %ecx, (%edx,%edi,4)
    address virtio_queue_seen, %edx
    movl $0, (%edx,%edi,4)
    call virtio_queue_address
    movl %edx, COMMON_QUEUE_DESCRIPTORS(%ebp)
    movl $0, COMMON_QUEUE_DESCRIPTORS + 4(%ebp)
    movl $0, QUEUE_AVAILABLE(%edx)
    movl $0, QUEUE_USED(%edx)
    addl $QUEUE_AVAILABLE, %edx
    movl %edx, COMMON_QUEUE_AVAILABLE(%ebp)
    movl $0, COMMON_QUEUE_AVAILABLE + 4(%ebp)
    addl $(QUEUE_USED - QUEUE_AVAILABLE), %edx
    movl %edx, COMMON_QUEUE_USED(%ebp)
    movl $0, COMMON_QUEUE_USED + 4(%ebp)
    movzwl COMMON_QUEUE_NOTIFY_OFFSET(%ebp), %eax
    fetch virtio_notify_multiplier, %ecx
    imull %ecx, %eax
    fetch virtio_notify, %ecx
    addl %ecx, %eax
    address virtio_queue_doorbell, %edx
    movl %eax, (%edx,%edi,4)
    movw $1, COMMON_QUEUE_ENABLE(%ebp)
    ret

# The address of queue EDI in EDX. Changes nothing else.
virtio_queue_address:
    imull $QUEUE_BYTES, %edi, %edx
    addl $QUEUES, %edx
    ret

# The driver is ready.
virtio_start:
    fetch virtio_common, %ebp
    movb $(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK), COMMON_DEVICE_STATUS(%ebp)
    ret

# Makes the chain that begins at descriptor ECX available in queue EAX and rings its doorbell. Changes EDX and EDI.
virtio_submit:
    pushl %ebx
    pushl %esi
    movl %eax, %edi
    call virtio_queue_address
    addl $QUEUE_AVAILABLE, %edx
    address virtio_queue_mask, %esi
    movzwl 2(%edx), %ebx
    andl (%esi,%edi,4), %ebx
    movw %cx, 4(%edx,%ebx,2)
    incw 2(%edx)
    address virtio_queue_doorbell, %esi
    movl (%esi,%edi,4), %esi
    movw %di, (%esi)
    popl %esi
    popl %ebx
    ret

# Whether queue EAX has a used chain: ZF is clear if so. Changes ECX, EDX and EDI.
virtio_is_used:
    movl %eax, %edi
    call virtio_queue_address
    address virtio_queue_seen, %ecx
    movl (%ecx,%edi,4), %ecx
    cmpw QUEUE_USED + 2(%edx), %cx
    ret

# Waits for a used chain of queue EAX; its first descriptor in EAX, the bytes written in ECX. Changes EDX and EDI.
virtio_wait:
    call virtio_is_used
    jne 1f
    pause
    jmp virtio_wait
1:
    pushl %esi
    address virtio_queue_mask, %esi
    andl (%esi,%edi,4), %ecx
    address virtio_queue_seen, %esi
    incw (%esi,%edi,4)
    movl QUEUE_USED + 4(%edx,%ecx,8), %eax
    movl QUEUE_USED + 8(%edx,%ecx,8), %ecx
    popl %esi
    ret

.balign 4
virtio_wanted: .long 0
virtio_common: .long 0
virtio_notify: .long 0
virtio_notify_multiplier: .long 0
virtio_device: .long 0
virtio_queue_mask: .fill QUEUES_MOST, 4, 0
virtio_queue_seen: .fill QUEUES_MOST, 4, 0
virtio_queue_doorbell: .fill QUEUES_MOST, 4, 0

text_no_device: .asciz "no such device\n"
text_no_configuration: .asciz "no virtio configuration\n"
text_no_agreement: .asciz "no agreement on features\n"
text_no_queue: .asciz "no queue\n"
