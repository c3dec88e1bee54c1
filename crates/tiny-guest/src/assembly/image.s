# The frame of the image: where it begins, its parameters, and the entry that picks a guest.
#
# Everything runs in 32-bit protected mode as PVH enters it: flat segments, paging and interrupts off, EBX at the
# start information. The image is linked at a fixed address, so an absolute address is a difference of labels.

.set IMAGE_BASE, 0x100000
.set STACK_TOP, IMAGE_BASE + 0x4000

# Loads the address of a label into a register.
.macro address label, register
    movl $(\label - tiny_guest_image + IMAGE_BASE), \register
.endm

# Reads a variable of the image.
.macro fetch label, register
    movl (\label - tiny_guest_image + IMAGE_BASE), \register
.endm

# Writes a variable of the image.
.macro store register, label
    movl \register, (\label - tiny_guest_image + IMAGE_BASE)
.endm

# Writes a text of the image to the serial port. Changes no register.
.macro say label
    pushl %esi
    address \label, %esi
    call serial_put_text
    popl %esi
.endm

.pushsection .rodata.tiny_guest, "a", @progbits
.code32
.balign 16
.globl tiny_guest_image
tiny_guest_image:
    jmp image_entry

# Patched by the host; the order is that of `Parameters` in the crate's `image` module.
.balign 16
.globl tiny_guest_parameters
tiny_guest_parameters:
parameter_guest:          .long 0    # index into the table below
parameter_message:        .long 0    # guest-physical address of a zero-terminated text
parameter_count:          .long 0
parameter_address:        .long 0    # guest-physical address
parameter_network:        .long 0    # IPv4 address, as it lies in a packet

start_information: .long 0

image_entry:
    cli
    cld
    movl $STACK_TOP, %esp
    store %ebx, start_information
    fetch parameter_guest, %eax
    address guests, %edx
    movl (%edx,%eax,4), %eax
    jmp *%eax

# The order is that of `Kind` in the crate's root.
.macro guest label
    .long \label - tiny_guest_image + IMAGE_BASE
.endm
.balign 4
guests:
    guest guest_hello
    guest guest_spin
    guest guest_idle
    guest guest_acpi_reset
    guest guest_keyboard_reset
    guest guest_triple_fault
    guest guest_power_button
    guest guest_echo
    guest guest_boot_information
    guest guest_block
    guest guest_entropy
    guest guest_net
    guest guest_processors
    guest guest_network_host
    guest guest_last_words
    guest guest_panic
    guest guest_script
    guest guest_balloon
    guest guest_nmi
    guest guest_lives
    guest guest_churn
    guest guest_stray
    guest guest_presses
    guest guest_late_presses
    guest guest_relay
