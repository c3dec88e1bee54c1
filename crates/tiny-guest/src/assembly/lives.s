# A guest that resets itself again and again and counts its lives on its disk, in the first word of sector 0. After the
# last one it powers off, halts, or serves the network if it has an address.

.set HALTS, 1

guest_lives:
    movl $BLOCK_DEVICE, %edx
    movl $BLOCK_FEATURE_FLUSH, %ecx
    call virtio_open
    xorl %eax, %eax
    call virtio_open_queue
    call virtio_start

    describe 0, 1, BLOCK_DATA, BLOCK_SECTOR, DESCRIPTOR_NEXT | DESCRIPTOR_WRITE, 2
    address text_read, %esi
    movl $BLOCK_READ, %ecx
    xorl %edx, %edx
    call block_request
    say text_life
    movl BLOCK_DATA, %eax
    call serial_put_hex

    incl BLOCK_DATA
    describe 0, 1, BLOCK_DATA, BLOCK_SECTOR, DESCRIPTOR_NEXT, 2
    address text_write, %esi
    movl $BLOCK_WRITE, %ecx
    xorl %edx, %edx
    call block_request
    call serial_end_line

    fetch parameter_count, %eax
    cmpl BLOCK_DATA, %eax
    jae 1f
    fetch parameter_address, %eax
    testl %eax, %eax
    jz power_off
    cmpl $HALTS, %eax
    je guest_idle
    # The driver is about to open another device.
    xorl %eax, %eax
    store %eax, virtio_common
    store %eax, virtio_notify
    store %eax, virtio_device
    jmp guest_network_host
1:
    movw $ACPI_SLEEP_PORT, %dx
    movb $ACPI_RESET, %al
    outb %al, %dx
    jmp wait_forever

text_life: .asciz "\nlife "
