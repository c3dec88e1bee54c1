#!/usr/bin/env python3
"""A master for trying the protocol: gives every worker one desired state and prints what workers say.

    master.py PORT DESIRED.json CERTIFICATE.pem KEY.pem AUTHORITIES.pem

docs/protocol.md says what the messages mean. A real master keeps its numbers on disk and serves workers side by side.
"""

import json
import socket
import ssl
import struct
import sys
import time

EPOCH = "example"
HEARTBEAT = 2.0


def receive(connection):
    """The next message, or None at the end of the connection."""
    header = exactly(connection, 4)
    if header is None:
        return None
    (length,) = struct.unpack(">I", header)
    if not 1 <= length <= 4 << 20:
        raise ValueError(f"a frame of {length} bytes")
    frame = exactly(connection, length)
    return None if frame is None else json.loads(frame)


def exactly(connection, count):
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            return None
        data += more
    return data


def send(connection, kind, **fields):
    frame = json.dumps({"type": kind, **fields}).encode()
    connection.sendall(struct.pack(">I", len(frame)) + frame)


def names(connection):
    """The names in the worker's certificate, the one that counts first."""
    certificate = connection.getpeercert()
    dns = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    common = [value for part in certificate["subject"] for key, value in part if key == "commonName"]
    return dns or common


def serve(connection, desired):
    connection.settimeout(3 * HEARTBEAT)
    hello = receive(connection)
    if not hello or hello.get("type") != "hello" or 1 not in hello["versions"]:
        return send(connection, "goodbye", code="no_common_version", text="version 1 is spoken here")
    if hello["worker"].lower() != names(connection)[0].lower():
        return send(connection, "goodbye", code="wrong_identity", text="the certificate is another's")
    heartbeat_ms = int(HEARTBEAT * 1000)
    send(connection, "welcome", version=1, heartbeat_ms=heartbeat_ms, master="example", epoch=EPOCH)
    send(connection, "assignment", epoch=EPOCH, **desired)
    said = time.monotonic()
    while (message := receive(connection)) is not None:
        print(json.dumps(message), flush=True)
        if message["type"] == "ping":
            send(connection, "pong", nonce=message.get("nonce", 0))
        elif time.monotonic() - said >= HEARTBEAT / 2:  # workers speak at least once a heartbeat
            said = time.monotonic()
            send(connection, "ping", nonce=0)


def main():
    port, desired, certificate, key, authorities = sys.argv[1:]
    with open(desired, encoding="utf-8") as file:
        desired = json.load(file)  # {"generation": 1, "vms": […]}, as docs/configuration.md says
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authorities)
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        while True:
            stream, address = listener.accept()
            try:
                stream.settimeout(3 * HEARTBEAT)
                with context.wrap_socket(stream, server_side=True) as connection:
                    serve(connection, desired)
            except (OSError, ValueError, KeyError, IndexError) as problem:
                print(f"{address}: {problem}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
