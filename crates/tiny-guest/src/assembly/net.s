# A network interface: queue 0 receives, queue 1 transmits (virtio 1.2, section 5.1). Every buffer begins with the
# header of 12 bytes, left zero: no offloads.

.set NET_DEVICE, 0x10411af4
.set NET_FEATURE_MAC, 1 << 5
.set NET_HEADER, 12
.set NET_RECEIVE, BUFFERS
.set NET_TRANSMIT, BUFFERS + 0x1000
.set NET_RECEIVE_BYTES, 0x800
.set NET_RECEIVED_FRAME, NET_RECEIVE + NET_HEADER
.set NET_FRAME, NET_TRANSMIT + NET_HEADER
.set ETHERNET_HEADER, 14
.set ETHERNET_SHORTEST, 60
# "Local experimental" (IEEE 802), as it lies in memory.
.set ETHERTYPE_EXPERIMENTAL, 0xb588

# Sends one broadcast frame, waits for one of the experimental type and says what is in it.
guest_net:
    call net_open
    movl $0xffffffff, NET_FRAME
    movw $0xffff, NET_FRAME + 4
    call net_put_source
    movw $ETHERTYPE_EXPERIMENTAL, NET_FRAME + 12
    address text_payload, %esi
    movl $(NET_FRAME + ETHERNET_HEADER), %edi
1:
    movb (%esi), %al
    movb %al, (%edi)
    incl %esi
    incl %edi
    testb %al, %al
    jnz 1b
    movl $ETHERNET_SHORTEST, %ecx
    call net_transmit
    say text_sent
2:
    call net_wait
    cmpw $ETHERTYPE_EXPERIMENTAL, NET_RECEIVED_FRAME + 12
    jne 2b
    say text_received
    movl $(NET_RECEIVED_FRAME + ETHERNET_HEADER), %esi
    movl $16, %ecx
    call serial_put_hex_bytes
    call serial_end_line
    jmp power_off

# Opens the interface and both queues, says its address, and makes the receive buffer available.
net_open:
    movl $NET_DEVICE, %edx
    movl $NET_FEATURE_MAC, %ecx
    call virtio_open
    xorl %eax, %eax
    call virtio_open_queue
    movl $1, %eax
    call virtio_open_queue
    call virtio_start
    say text_mac
    fetch virtio_device, %esi
    movl $6, %ecx
    call serial_put_hex_bytes
    call serial_end_line
    jmp net_make_available

net_make_available:
    describe 0, 0, NET_RECEIVE, NET_RECEIVE_BYTES, DESCRIPTOR_WRITE, 0
    xorl %eax, %eax
    xorl %ecx, %ecx
    jmp virtio_submit

# Waits for a frame; it lies at NET_RECEIVED_FRAME until the next wait, ECX is its length.
net_wait:
    fetch net_has_frame, %eax
    testl %eax, %eax
    jz 1f
    call net_make_available
1:
    movl $1, %eax
    store %eax, net_has_frame
    xorl %eax, %eax
    call virtio_wait
    subl $NET_HEADER, %ecx
    ret

# Copies the interface's own address into the frame to be sent. Changes EAX and ESI.
net_put_source:
    fetch virtio_device, %esi
    movl (%esi), %eax
    movl %eax, NET_FRAME + 6
    movw 4(%esi), %ax
    movw %ax, NET_FRAME + 10
    ret

# Sends the ECX bytes at NET_FRAME and waits until they are gone.
net_transmit:
    describe 1, 0, NET_TRANSMIT, 0, 0, 0
    addl $NET_HEADER, %ecx
    movl %ecx, QUEUES + QUEUE_BYTES + 8
    movl $0, NET_TRANSMIT
    movl $0, NET_TRANSMIT + 4
    movl $0, NET_TRANSMIT + 8
    movl $1, %eax
    xorl %ecx, %ecx
    call virtio_submit
    movl $1, %eax
    jmp virtio_wait

.balign 4
net_has_frame: .long 0
text_mac: .asciz "mac "
text_payload: .asciz "tiny guest calling"
text_sent: .asciz "sent\n"
text_received: .asciz "received "
