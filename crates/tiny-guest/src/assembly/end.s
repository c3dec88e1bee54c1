# The end of the image.

.globl tiny_guest_image_end
tiny_guest_image_end:
.code64
.popsection
