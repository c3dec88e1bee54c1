# A disk that is written and read back over and over, four requests in flight at a time (virtio 1.2, section 5.2), until
# something is wrong or a `q` comes on the serial port.
#
# In round R (from 1 on) request S (0 to 3) has sector S, whose double word I (0 to 127) is R * CHURN_FACTOR +
# S * 128 + I.

.set CHURN_REQUESTS, 4
.set CHURN_BYTES, 512
.set CHURN_FACTOR, 0x9e3779b1
.set CHURN_DESCRIPTORS, 3
# The first descriptors of all requests, as bits.
.set CHURN_HEADS, 1 << 0 | 1 << 3 | 1 << 6 | 1 << 9

guest_churn:
    movl $BLOCK_DEVICE, %edx
    xorl %ecx, %ecx
    call virtio_open
    xorl %eax, %eax
    call virtio_open_queue
    call virtio_start
    say text_ready
1:
    address churn_round, %eax
    incl (%eax)
    call churn_fill
    movl $BLOCK_WRITE, %ecx
    movl $DESCRIPTOR_NEXT, %esi
    call churn_requests
    call churn_wipe
    movl $BLOCK_READ, %ecx
    movl $(DESCRIPTOR_NEXT | DESCRIPTOR_WRITE), %esi
    call churn_requests
    call churn_check
    movw $SERIAL_LINE_STATUS, %dx
    inb %dx, %al
    testb $LINE_STATUS_DATA_READY, %al
    jz 1b
    call serial_get_byte
    cmpb $'q', %al
    jne 1b
    address text_rounds, %esi
    jmp churn_end

# Something is wrong: says so and the round.
churn_wrong:
    address text_wrong, %esi
# Says the text at ESI and the round, and ends the machine.
churn_end:
    call serial_put_text
    fetch churn_round, %eax
    call serial_put_hex
    call serial_end_line
    jmp power_off

# The first double word of the round in EAX.
churn_first:
    fetch churn_round, %eax
    imull $CHURN_FACTOR, %eax, %eax
    ret

# Fills the buffers of all requests. Changes EAX, ECX and EDI.
churn_fill:
    call churn_first
    movl $BLOCK_DATA, %edi
    movl $(CHURN_REQUESTS * CHURN_BYTES / 4), %ecx
1:
    movl %eax, (%edi)
    addl $4, %edi
    incl %eax
    decl %ecx
    jnz 1b
    ret

# Wipes the buffers of all requests. Changes EAX, ECX and EDI.
churn_wipe:
    xorl %eax, %eax
    movl $BLOCK_DATA, %edi
    movl $(CHURN_REQUESTS * CHURN_BYTES / 4), %ecx
    rep stosl
    ret

# Ends the machine unless the buffers are as they were filled. Changes EAX, ECX and EDI.
churn_check:
    call churn_first
    movl $BLOCK_DATA, %edi
    movl $(CHURN_REQUESTS * CHURN_BYTES / 4), %ecx
1:
    cmpl %eax, (%edi)
    jne churn_wrong
    addl $4, %edi
    incl %eax
    decl %ecx
    jnz 1b
    ret

# Makes all requests, of type ECX with data of flags ESI, and waits for them; each must end once and well. Changes every
# register but ESP.
churn_requests:
    store %ecx, churn_type
    xorl %ebx, %ebx
1:
    call churn_describe
    leal (%ebx,%ebx,2), %ecx
    xorl %eax, %eax
    call virtio_submit
    incl %ebx
    cmpl $CHURN_REQUESTS, %ebx
    jne 1b
    xorl %ebp, %ebp
2:
    xorl %eax, %eax
    call virtio_wait
    btsl %eax, %ebp
    decl %ebx
    jnz 2b
    cmpl $CHURN_HEADS, %ebp
    jne churn_wrong
    xorl %eax, %eax
    call virtio_is_used
    jne churn_wrong
    cmpl $0, BLOCK_STATUS
    jne churn_wrong
    ret

# Describes request EBX with data of flags ESI. Changes EAX, ECX, EDX and EDI.
churn_describe:
    movl %ebx, %edi
    shll $4, %edi
    addl $BLOCK_HEADER, %edi
    fetch churn_type, %eax
    movl %eax, (%edi)
    movl $0, 4(%edi)
    movl %ebx, 8(%edi)
    movl $0, 12(%edi)
    movb $0xff, BLOCK_STATUS(%ebx)

    leal (%ebx,%ebx,2), %ecx
    movl %ecx, %edx
    shll $4, %edx
    addl $QUEUES, %edx
    movl %edi, (%edx)
    movl $16, 8(%edx)
    movw $DESCRIPTOR_NEXT, 12(%edx)
    incl %ecx
    movw %cx, 14(%edx)

    imull $CHURN_BYTES, %ebx, %eax
    addl $BLOCK_DATA, %eax
    movl %eax, 16(%edx)
    movl $CHURN_BYTES, 24(%edx)
    movw %si, 28(%edx)
    incl %ecx
    movw %cx, 30(%edx)

    leal BLOCK_STATUS(%ebx), %eax
    movl %eax, 32(%edx)
    movl $1, 40(%edx)
    movw $DESCRIPTOR_WRITE, 44(%edx)
    ret

.balign 4
churn_round: .long 0
churn_type: .long 0
text_rounds: .asciz "rounds "
text_wrong: .asciz "wrong "
