# A disk: read sector 0, write sector 1, flush, ask for the identity (virtio 1.2, section 5.2).

.set BLOCK_DEVICE, 0x10421af4
.set BLOCK_FEATURE_FLUSH, 1 << 9
.set BLOCK_READ, 0
.set BLOCK_WRITE, 1
.set BLOCK_FLUSH, 4
.set BLOCK_IDENTITY, 8
.set BLOCK_HEADER, BUFFERS
.set BLOCK_STATUS, BUFFERS + 0x100
.set BLOCK_DATA, BUFFERS + 0x1000
.set BLOCK_SECTOR, 512
.set BLOCK_IDENTITY_BYTES, 20

guest_block:
    movl $BLOCK_DEVICE, %edx
    movl $BLOCK_FEATURE_FLUSH, %ecx
    call virtio_open
    xorl %eax, %eax
    call virtio_open_queue
    call virtio_start

    say text_capacity
    fetch virtio_device, %esi
    movl (%esi), %eax
    call serial_put_hex

    describe 0, 1, BLOCK_DATA, BLOCK_SECTOR, DESCRIPTOR_NEXT | DESCRIPTOR_WRITE, 2
    address text_read, %esi
    movl $BLOCK_READ, %ecx
    xorl %edx, %edx
    call block_request
    say text_sector
    movl $BLOCK_DATA, %esi
    movl $16, %ecx
    call serial_put_hex_bytes

    movl $BLOCK_DATA, %edi
    xorl %eax, %eax
1:
    movb %al, (%edi)
    incl %edi
    incl %eax
    cmpl $BLOCK_SECTOR, %eax
    jne 1b
    describe 0, 1, BLOCK_DATA, BLOCK_SECTOR, DESCRIPTOR_NEXT, 2
    address text_write, %esi
    movl $BLOCK_WRITE, %ecx
    movl $1, %edx
    call block_request

    describe 0, 1, BLOCK_DATA, BLOCK_IDENTITY_BYTES, DESCRIPTOR_NEXT | DESCRIPTOR_WRITE, 2
    address text_identity, %esi
    movl $BLOCK_IDENTITY, %ecx
    xorl %edx, %edx
    call block_request
    say text_space
    # The identity ends with a zero byte only when it is shorter than its field.
    movb $0, BLOCK_DATA + BLOCK_IDENTITY_BYTES
    movl $BLOCK_DATA, %esi
    call serial_put_text

    # A flush has no data: the status follows the header.
    address text_flush, %esi
    movl $BLOCK_FLUSH, %ecx
    xorl %edx, %edx
    describe 0, 0, BLOCK_HEADER, 16, DESCRIPTOR_NEXT, 2
    call block_request_described
    call serial_end_line
    jmp power_off

# Makes the request of type ECX at sector EDX with the data that descriptor 1 names, and says the text at ESI and
# the status.
block_request:
    describe 0, 0, BLOCK_HEADER, 16, DESCRIPTOR_NEXT, 1
block_request_described:
    describe 0, 2, BLOCK_STATUS, 1, DESCRIPTOR_WRITE, 0
    movl %ecx, BLOCK_HEADER
    movl $0, BLOCK_HEADER + 4
    movl %edx, BLOCK_HEADER + 8
    movl $0, BLOCK_HEADER + 12
    movb $0xff, BLOCK_STATUS
    xorl %eax, %eax
    xorl %ecx, %ecx
    call virtio_submit
    xorl %eax, %eax
    call virtio_wait
    call serial_put_text
    movb BLOCK_STATUS, %al
    jmp serial_put_hex_byte

text_capacity: .asciz "capacity "
text_sector: .asciz "\nsector 0 "
text_read: .asciz "\nread status "
text_write: .asciz "\nwrite status "
text_identity: .asciz "\nidentity status "
text_flush: .asciz "\nflush status "
text_space: .asciz " "
