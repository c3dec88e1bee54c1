#!/bin/sh
# Run with credentials: what each says, and what the system has.
for file in "$CREDENTIALS_DIRECTORY"/*; do
    echo "credential ${file##*/} says $(cat "$file")" >/dev/console
done
systemd-creds --system --no-legend list >/dev/console
