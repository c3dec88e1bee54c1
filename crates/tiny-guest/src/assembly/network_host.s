# A host on the network: answers ARP requests (RFC 826) and echo requests (RFC 792) for one IPv4 address until the
# power button is pressed. Numbers of more than one byte are compared as they lie in memory.

.set HOST_POLLS, 0x2000
.set ETHERTYPE_ARP, 0x0608
.set ETHERTYPE_IPV4, 0x0008

.set ARP_REQUEST, NET_RECEIVED_FRAME + ETHERNET_HEADER
.set ARP_REPLY, NET_FRAME + ETHERNET_HEADER
.set ARP_OPERATION, 6
.set ARP_SENDER_MAC, 8
.set ARP_SENDER_ADDRESS, 14
.set ARP_TARGET_MAC, 18
.set ARP_TARGET_ADDRESS, 24
.set ARP_BYTES, 28
.set ARP_ASKS, 0x0100
.set ARP_ANSWERS, 0x0200

.set IP_REQUEST, NET_RECEIVED_FRAME + ETHERNET_HEADER
.set IP_REPLY, NET_FRAME + ETHERNET_HEADER
.set IP_VERSION_AND_LENGTH, 0x45
.set IP_PROTOCOL, 9
.set IP_SOURCE, 12
.set IP_DESTINATION, 16
.set IP_HEADER, 20
.set PROTOCOL_ICMP, 1
.set ICMP_ECHO_REQUEST, 8
.set ICMP_CHECKSUM, 2

guest_network_host:
    fetch parameter_network, %eax
    testl %eax, %eax
    jnz 1f
    call host_parse_address
1:
    testl %eax, %eax
    jnz 2f
    fail text_no_address
2:
    store %eax, host_address
    call net_open
    say text_ready
host_poll:
    movl $HOST_POLLS, %ebx
1:
    xorl %eax, %eax
    call virtio_is_used
    jne host_frame
    pause
    decl %ebx
    jnz 1b
    fetch parameter_address, %eax
    movl (%eax), %eax
    testl $POWER_BUTTON, %eax
    jz host_poll
    say text_bye
    jmp power_off

host_frame:
    call net_wait
    call host_answer
    # The next wait shall not give the buffer back again.
    call net_make_available
    xorl %eax, %eax
    store %eax, net_has_frame
    jmp host_poll

# Answers the received frame of ECX bytes, if it asks something of this host.
host_answer:
    movw NET_RECEIVED_FRAME + 12, %ax
    fetch host_address, %edx
    cmpw $ETHERTYPE_ARP, %ax
    je host_answer_arp
    cmpw $ETHERTYPE_IPV4, %ax
    je host_answer_echo
    ret

host_answer_arp:
    cmpw $ARP_ASKS, ARP_REQUEST + ARP_OPERATION
    jne 1f
    cmpl %edx, ARP_REQUEST + ARP_TARGET_ADDRESS
    jne 1f
    movl $(ETHERNET_HEADER + ARP_BYTES), %ecx
    call host_copy_frame
    movw $ARP_ANSWERS, ARP_REPLY + ARP_OPERATION
    # Sender's MAC and address become the target's: ten bytes in a row.
    movl $(ARP_REQUEST + ARP_SENDER_MAC), %esi
    movl $(ARP_REPLY + ARP_TARGET_MAC), %edi
    movl $10, %ecx
    rep movsb
    fetch virtio_device, %esi
    movl (%esi), %eax
    movl %eax, ARP_REPLY + ARP_SENDER_MAC
    movw 4(%esi), %ax
    movw %ax, ARP_REPLY + ARP_SENDER_MAC + 4
    fetch host_address, %edx
    movl %edx, ARP_REPLY + ARP_SENDER_ADDRESS
    movl $ETHERNET_SHORTEST, %ecx
    jmp net_transmit
1:
    ret

host_answer_echo:
    cmpl %edx, IP_REQUEST + IP_DESTINATION
    jne 1f
    cmpb $IP_VERSION_AND_LENGTH, IP_REQUEST
    jne 1f
    cmpb $PROTOCOL_ICMP, IP_REQUEST + IP_PROTOCOL
    jne 1f
    cmpb $ICMP_ECHO_REQUEST, IP_REQUEST + IP_HEADER
    jne 1f
    pushl %ecx
    call host_copy_frame
    # Swapping the addresses leaves the header's checksum as it is.
    movl IP_REQUEST + IP_SOURCE, %eax
    movl %eax, IP_REPLY + IP_DESTINATION
    movl %edx, IP_REPLY + IP_SOURCE
    # The type falls from 8 to 0 in the high byte of its word, so the checksum rises by as much (RFC 1624).
    movb $0, IP_REPLY + IP_HEADER
    movw IP_REPLY + IP_HEADER + ICMP_CHECKSUM, %ax
    xchgb %al, %ah
    addw $(ICMP_ECHO_REQUEST << 8), %ax
    adcw $0, %ax
    xchgb %al, %ah
    movw %ax, IP_REPLY + IP_HEADER + ICMP_CHECKSUM
    popl %ecx
    jmp net_transmit
1:
    ret

# Copies the first ECX bytes of the received frame to the one to be sent, addressed to who sent it. Changes EAX,
# ECX, ESI and EDI.
host_copy_frame:
    movl $NET_RECEIVED_FRAME, %esi
    movl $NET_FRAME, %edi
    rep movsb
    movl NET_RECEIVED_FRAME + 6, %eax
    movl %eax, NET_FRAME
    movw NET_RECEIVED_FRAME + 10, %ax
    movw %ax, NET_FRAME + 4
    jmp net_put_source

# Reads the address of an `ip=` argument of the command line into EAX; 0 without one. Changes every register but ESP.
host_parse_address:
    fetch start_information, %esi
    movl START_COMMAND_LINE(%esi), %esi
1:
    movl (%esi), %eax
    testb %al, %al
    jz 3f
    andl $0xffffff, %eax
    cmpl $0x3d7069, %eax
    je 2f
    incl %esi
    jmp 1b
2:
    addl $3, %esi
    movl $4, %ecx
    xorl %edx, %edx
4:
    # Each number comes in at the top and moves down, so that the first ends in the lowest byte.
    call host_parse_number
    shrl $8, %edx
    shll $24, %eax
    orl %eax, %edx
    incl %esi
    decl %ecx
    jnz 4b
    movl %edx, %eax
    ret
3:
    xorl %eax, %eax
    ret

# Reads the decimal number at ESI into EAX and leaves ESI at what follows it. Changes EBX.
host_parse_number:
    xorl %eax, %eax
1:
    movzbl (%esi), %ebx
    subl $'0', %ebx
    cmpl $9, %ebx
    ja 2f
    leal (%eax,%eax,4), %eax
    leal (%ebx,%eax,2), %eax
    incl %esi
    jmp 1b
2:
    ret

.balign 4
host_address: .long 0
text_no_address: .asciz "no address\n"
