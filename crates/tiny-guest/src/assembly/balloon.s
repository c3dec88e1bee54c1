# A balloon: wait until one page is asked for, give it up and look at it (virtio 1.2, section 5.5).

.set BALLOON_DEVICE, 0x10451af4
# The page that is given up, and its neighbour that is not.
.set BALLOON_PAGE, 0x300
.set BALLOON_ADDRESS, BALLOON_PAGE * 0x1000

guest_balloon:
    movl $BALLOON_DEVICE, %edx
    xorl %ecx, %ecx
    call virtio_open
    xorl %eax, %eax
    call virtio_open_queue
    movl $1, %eax
    call virtio_open_queue
    call virtio_start
    movb $0xaa, BALLOON_ADDRESS
    movb $0xaa, BALLOON_ADDRESS + 0x1000
    say text_ready
    fetch virtio_device, %ebx
1:
    pause
    movl (%ebx), %eax
    testl %eax, %eax
    jz 1b
    movl $BALLOON_PAGE, BUFFERS
    describe 0, 0, BUFFERS, 4, 0, 0
    xorl %eax, %eax
    xorl %ecx, %ecx
    call virtio_submit
    xorl %eax, %eax
    call virtio_wait
    fetch virtio_device, %ebx
    movl $1, 4(%ebx)
    say text_balloon
    movb BALLOON_ADDRESS, %al
    call serial_put_hex_byte
    say text_space
    movb BALLOON_ADDRESS + 0x1000, %al
    call serial_put_hex_byte
    call serial_end_line
    jmp power_off

text_balloon: .asciz "balloon "
