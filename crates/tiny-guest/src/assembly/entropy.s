# An entropy device: ask once for 16 bytes (virtio 1.2, section 5.4).

.set ENTROPY_DEVICE, 0x10441af4
.set ENTROPY_BYTES, 16

guest_entropy:
    movl $ENTROPY_DEVICE, %edx
    xorl %ecx, %ecx
    call virtio_open
    xorl %eax, %eax
    call virtio_open_queue
    call virtio_start
    describe 0, 0, BUFFERS, ENTROPY_BYTES, DESCRIPTOR_WRITE, 0
    xorl %eax, %eax
    xorl %ecx, %ecx
    call virtio_submit
    xorl %eax, %eax
    call virtio_wait
    say text_entropy
    movb %cl, %al
    call serial_put_hex_byte
    say text_space
    movl $BUFFERS, %esi
    movl $ENTROPY_BYTES, %ecx
    call serial_put_hex_bytes
    call serial_end_line
    jmp power_off

text_entropy: .asciz "entropy "
