"""Checks of an MQTT 3.1.1 broker with paho-mqtt, after the cases of Eclipse Paho's interoperability suite, and some on the bare wire.

Usage: conformance.py HOST PORT [--only NAME] [--lenient] [--restart FILE]
With --restart the broker is killed and started again by whoever watches: the file is created when it is to be, and removed when it
has been.
Prints one line a check; exits 1 when one failed. Every check has clients and topics of its own.
"""

import argparse
import os
import socket
import struct
import sys
import threading
import time
import traceback

import paho.mqtt.client as mqtt

LIMIT = 10.0
CHECKS = []
OPTIONS = None


def check(function):
    CHECKS.append(function)
    return function


class Client:
    """A client that remembers what came, and waits for conditions."""

    def __init__(self, name, clean=True, protocol=mqtt.MQTTv311, will=None, keepalive=60, connect=True):
        self.changed = threading.Condition()
        self.messages, self.granted, self.done, self.code, self.present = [], {}, set(), None, None
        self.ended = False
        self.paho = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=name, clean_session=clean, protocol=protocol, reconnect_on_failure=False
        )
        self.paho.on_connect = self._connected
        self.paho.on_message = lambda _c, _u, message: self._note(lambda: self.messages.append(message))
        self.paho.on_subscribe = lambda _c, _u, mid, codes, _p: self._note(
            lambda: self.granted.update({mid: [code.value for code in codes]})
        )
        self.paho.on_unsubscribe = lambda _c, _u, mid, _r, _p: self._note(lambda: self.done.add(mid))
        self.paho.on_publish = lambda _c, _u, mid, _r, _p: self._note(lambda: self.done.add(mid))
        self.paho.on_disconnect = lambda *_: self._note(lambda: setattr(self, "ended", True))
        if will:
            self.paho.will_set(*will)
        self.keepalive = keepalive
        if connect:
            self.connect()

    def _connected(self, _client, _data, flags, code, _properties):
        def note():
            self.code, self.present = code.value, flags.session_present

        self._note(note)

    def _note(self, change):
        with self.changed:
            change()
            self.changed.notify_all()

    def until(self, what, condition, limit=LIMIT):
        with self.changed:
            if not self.changed.wait_for(condition, limit):
                raise AssertionError(f"{what}: not within {limit} s; got {self.got()}")

    def connect(self):
        self.ended, self.code = False, None
        self.paho.connect(OPTIONS.host, OPTIONS.port, self.keepalive)
        self.paho.loop_start()
        self.until("CONNACK", lambda: self.code is not None)
        return self

    def subscribe(self, *filters):
        _, mid = self.paho.subscribe(list(filters))
        self.until("SUBACK", lambda: mid in self.granted)
        return self.granted[mid]

    def unsubscribe(self, topic):
        _, mid = self.paho.unsubscribe(topic)
        self.until("UNSUBACK", lambda: mid in self.done)

    def publish(self, topic, payload, qos=0, retain=False):
        mid = self.paho.publish(topic, payload, qos, retain).mid
        self.until("the acknowledgement", lambda: mid in self.done)

    def got(self):
        return [(message.topic, message.payload, message.qos, message.retain) for message in self.messages]

    def expect(self, *expected, sort=False):
        self.until(f"{len(expected)} messages", lambda: len(self.messages) >= len(expected))
        got = sorted(self.got()) if sort else self.got()
        assert got == list(expected), f"got {got}, expected {list(expected)}"

    def nothing_but(self, topic, *expected):
        """Publishes a mark that must be the next that comes after what is expected."""
        self.publish(topic, b"mark", 2)
        self.expect(*expected, (topic, b"mark", min(2, expected[0][2] if expected else 2), False))

    def close(self):
        self.paho.disconnect()
        self.until("the end", lambda: self.ended)
        self.paho.loop_stop()

    def drop(self):
        """Goes without DISCONNECT."""
        self.paho.loop_stop()
        self.paho.socket().shutdown(socket.SHUT_RDWR)
        self.paho.socket().close()


def forget(name):
    Client(name).close()


@check
def all_qos_both_ways():
    reader, writer = Client("qos-r"), Client("qos-w")
    for granted in (0, 1, 2):
        assert reader.subscribe(("qos/a", granted)) == [granted]
        for sent in (0, 1, 2):
            reader.messages.clear()
            writer.publish("qos/a", f"{sent}", sent)
            reader.expect(("qos/a", f"{sent}".encode(), min(sent, granted), False))
    reader.close(), writer.close()


@check
def order_of_many():
    reader, writer = Client("order-r"), Client("order-w")
    for qos in (1, 2):
        reader.subscribe(("order/a", qos))
        reader.messages.clear()
        for number in range(90):
            writer.paho.publish("order/a", f"{number}", qos)
        reader.expect(*[("order/a", f"{number}".encode(), qos, False) for number in range(90)])
    reader.close(), writer.close()


@check
def wildcards():
    topics = ["wild/A", "wild/A/B", "wild", "/wild", "wild/A/", "wild//A"]
    cases = {
        "wild/#": {"wild", "wild/A", "wild/A/B", "wild/A/", "wild//A"},
        "wild/+": {"wild/A"},
        "wild/+/B": {"wild/A/B"},
        "+/+": {"wild/A", "/wild"},
        "/+": {"/wild"},
        "wild/+/+": {"wild/A/B", "wild/A/", "wild//A"},
    }
    writer = Client("wild-w")
    for number, (name, expected) in enumerate(cases.items()):
        reader = Client(f"wild-r{number}")
        reader.subscribe((name, 2), ("wild-mark", 2))
        for topic in topics:
            writer.publish(topic, b"", 1)
        writer.publish("wild-mark", b"", 2)
        reader.until("the mark", lambda: any(message.topic == "wild-mark" for message in reader.messages))
        got = {message.topic for message in reader.messages if message.topic.strip("/").startswith("wild")} - {"wild-mark"}
        assert got == expected, f"{name}: {got}, expected {expected}"
        reader.close()
    writer.close()


@check
def dollar_topics_are_hidden_from_wildcards():
    reader, writer = Client("dollar-r"), Client("dollar-w")
    reader.subscribe(("+/events/node/x", 1), ("#", 1))
    other = Client("dollar-o")
    other.subscribe(("$hw/events/#", 1))
    writer.publish("$hw/events/node/x", b"hidden", 1)
    other.expect(("$hw/events/node/x", b"hidden", 1, False))
    writer.publish("dollar-mark", b"", 1)
    reader.until("the mark", lambda: any(message.topic == "dollar-mark" for message in reader.messages))
    assert all(not message.topic.startswith("$") for message in reader.messages), reader.got()
    reader.close(), writer.close(), other.close()


@check
def retained():
    writer = Client("retain-w")
    for qos in (0, 1, 2):
        writer.publish(f"retain/{qos}", f"kept {qos}", qos, True)
    reader = Client("retain-r")
    reader.subscribe(("retain/+", 2))
    reader.expect(*[(f"retain/{qos}", f"kept {qos}".encode(), qos, True) for qos in (0, 1, 2)], sort=True)
    # Who is there gets it as any other message.
    reader.messages.clear()
    writer.publish("retain/1", "newer", 1, True)
    reader.expect(("retain/1", b"newer", 1, False))
    for qos in (0, 1, 2):
        writer.publish(f"retain/{qos}", b"", 1, True)
    late = Client("retain-l")
    late.subscribe(("retain/+", 2), ("retain-mark", 2))
    late.nothing_but("retain-mark")
    reader.close(), writer.close(), late.close()


@check
def will():
    reader = Client("will-r")
    reader.subscribe(("will/+", 2))
    goodbye = Client("will-a", will=("will/a", b"a", 1, False))
    goodbye.close()
    lost = Client("will-b", will=("will/b", b"b", 2, True))
    lost.drop()
    reader.expect(("will/b", b"b", 2, False))
    late = Client("will-l")
    late.subscribe(("will/b", 1))
    late.expect(("will/b", b"b", 1, True))
    late.publish("will/b", b"", 1, True)
    reader.close(), late.close()


@check
def keep_alive():
    reader = Client("alive-r")
    reader.subscribe(("alive/w", 1))
    silent = socket.create_connection((OPTIONS.host, OPTIONS.port))
    body = b"\x00\x04MQTT\x04\x06" + struct.pack(">H", 1) + text("alive-s") + text("alive/w") + text("lost")
    silent.sendall(bytes([0x10, len(body)]) + body)
    begin = time.monotonic()
    reader.expect(("alive/w", b"lost", 0, False))
    waited = time.monotonic() - begin
    assert waited >= 1.0, f"closed after {waited:.2f} s, one and a half of its keep alive are 1.5 s"
    reader.close()


@check
def persistent_session():
    forget("session-r")
    reader = Client("session-r", clean=False)
    assert not reader.present
    reader.subscribe(("session/#", 2))
    reader.close()
    writer = Client("session-w")
    for number in range(20):
        writer.publish("session/a", f"{number}", 1 + number % 2)
    writer.publish("session/a", b"qos 0 may be lost", 0)
    reader = Client("session-r", clean=False)
    assert reader.present
    reader.until("20 messages", lambda: len([m for m in reader.messages if m.qos]) >= 20)
    for qos in (1, 2):
        # The order of each QoS is one of its own: QoS 2 is given to the program when it is released.
        got = [message.payload for message in reader.messages if message.qos == qos]
        assert got == [f"{number}".encode() for number in range(20) if 1 + number % 2 == qos], got
    reader.close()
    clean = Client("session-r")
    assert not clean.present
    clean.subscribe(("session-mark", 2))
    writer.publish("session/a", b"nobody", 1)
    clean.nothing_but("session-mark")
    clean.close(), writer.close()
    again = Client("session-r", clean=False)
    assert not again.present, "a clean session leaves nothing"
    again.close()
    forget("session-r")


@check
def restart():
    if not OPTIONS.restart:
        return "skipped: nobody to restart the broker"
    forget("restart-r")
    reader = Client("restart-r", clean=False)
    reader.subscribe(("restart/a", 2))
    reader.close()
    writer = Client("restart-w", clean=False)
    for topic, payload in (("kept", b"old"), ("cleared", b"old"), ("kept", b"kept"), ("cleared", b"")):
        writer.publish(f"restart/{topic}", payload, 1, True)
    for number in range(10):
        writer.publish("restart/a", f"{number}", 2)
    writer.close()
    kill_broker()
    reader = Client("restart-r", clean=False)
    assert reader.present
    reader.expect(*[("restart/a", f"{number}".encode(), 2, False) for number in range(10)])
    late = Client("restart-l")
    late.subscribe(("restart/kept", 1), ("restart/cleared", 1))
    late.nothing_but("restart/kept", ("restart/kept", b"kept", 1, True))
    late.publish("restart/kept", b"", 1, True)
    late.close(), reader.close()
    forget("restart-r"), forget("restart-w")


@check
def killed_amid_qos_2_from_a_client():
    """Wherever in the exchange of a message the broker is killed, whoever subscribed has it once."""
    if not OPTIONS.restart:
        return "skipped: nobody to restart the broker"
    forget("amid-up-r"), forget("amid-up-w")
    reader, writer = Wire("amid-up-r"), Wire("amid-up-w")
    reader.subscribe("amid-up/a")
    for number in range(30):
        writer.publish("amid-up/a", number)
        assert writer.answer() == (PUBREC, number)
    for number in range(20, 30):
        writer.release(number)
        assert writer.answer() == (PUBCOMP, number)
    # Of these no answer is waited for.
    for number in range(10, 20):
        writer.release(number)
    for number in range(30, 40):
        writer.publish("amid-up/a", number)
    kill_broker()
    assert writer.connect(), "the publisher's session is gone"
    # To the publisher the PUBRECs up to 5 have come, those up to 10 not; and no PUBCOMP.
    for number in range(40):
        if 5 <= number < 10 or number >= 30:
            writer.publish("amid-up/a", number, again=True)
            assert writer.answer() == (PUBREC, number)
        writer.release(number)
        assert writer.answer() == (PUBCOMP, number)
    assert reader.connect(), "the subscriber's session is gone"
    writer.publish("amid-up/a", 40)
    assert reader.take_until(40) == list(range(41))
    writer.close(), reader.close()
    forget("amid-up-r"), forget("amid-up-w")


@check
def killed_amid_qos_2_to_a_client():
    """The same for the exchange with the subscriber, who counts what it has not seen under its packet id."""
    if not OPTIONS.restart:
        return "skipped: nobody to restart the broker"
    forget("amid-down-r")
    reader, writer = Wire("amid-down-r"), Client("amid-down-w")
    reader.subscribe("amid-down/a")
    for number in range(30):
        writer.publish("amid-down/a", f"{number}", 2)
    writer.close()
    ids = [reader.message() for _ in range(20)]
    for packet in ids[10:]:
        reader.send(PUBREC, packet)
        assert reader.answer() == (PUBREL, packet - 1)
    for packet in ids[15:]:
        reader.forget(packet)
    # Whether these arrive, nobody knows.
    for packet in ids[5:10]:
        reader.send(PUBREC, packet)
    kill_broker()
    assert reader.connect(), "the subscriber's session is gone"
    writer = Client("amid-down-w")
    writer.publish("amid-down/a", "30", 2)
    assert reader.take_until(30) == list(range(31))
    writer.close(), reader.close()
    forget("amid-down-r")


@check
def take_over():
    first = Client("twice")
    first.paho.on_disconnect = lambda *_: first._note(lambda: setattr(first, "ended", True))
    second = Client("twice")
    first.until("the first one's end", lambda: first.ended)
    second.subscribe(("twice/a", 2))
    second.nothing_but("twice/a")
    second.close()


@check
def overlapping_subscriptions():
    reader = Client("overlap")
    reader.subscribe(("overlap/#", 2), ("overlap/+", 1))
    reader.publish("overlap/a", b"x", 2)
    reader.publish("overlap/b", b"mark", 2)
    reader.until("the mark", lambda: any(message.payload == b"mark" for message in reader.messages))
    first = [message.qos for message in reader.messages if message.payload == b"x"]
    # One message with the best QoS, or one for each filter; mosquitto gives one with the QoS of the last filter.
    assert first in ([2], [2, 1], [1, 2]) or OPTIONS.lenient and first == [1], first
    reader.close()


@check
def unsubscribe():
    reader = Client("unsub")
    reader.subscribe(("unsub/a", 2), ("unsub/b", 2), ("unsub/c", 2))
    reader.unsubscribe("unsub/a")
    reader.unsubscribe("unsub/never")
    reader.publish("unsub/a", b"x", 2)
    reader.publish("unsub/b", b"x", 2)
    reader.expect(("unsub/b", b"x", 2, False))
    reader.close()


@check
def empty_client_id():
    assert Client("", clean=True).code == 0
    body = b"\x00\x04MQTT\x04\x00\x00\x3c\x00\x00"
    assert exchange(bytes([0x10, len(body)]) + body)[:4] == b"\x20\x02\x00\x02"


@check
def old_protocol():
    old = Client("old", protocol=mqtt.MQTTv31)
    assert old.code == 0
    old.subscribe(("old/a", 1))
    old.publish("old/a", b"x", 1)
    old.expect(("old/a", b"x", 1, False))
    old.close()


@check
def large_payload():
    client = Client("large")
    payload = os.urandom(200_000)
    client.subscribe(("large/a", 2))
    client.publish("large/a", payload, 2)
    client.expect(("large/a", payload, 2, False))
    client.close()


@check
def many_subscriptions():
    client = Client("many")
    filters = [(f"many/{number}", number % 3) for number in range(200)]
    assert client.subscribe(*filters) == [number % 3 for number in range(200)]
    client.publish("many/199", b"x", 1)
    client.expect(("many/199", b"x", 1, False))
    client.close()


@check
def counters():
    client = Client("sys")
    client.subscribe(("$SYS/broker/uptime", 0))
    client.until("uptime", lambda: client.messages, 15)
    client.close()


@check
def qos_2_on_the_wire():
    """A message that is sent again before its release is delivered once; a release that is sent again is answered again."""
    reader = Client("wire-r")
    reader.subscribe(("wire/a", 2))
    with connected("wire-w") as wire:
        publish = b"\x34\x0b" + text("wire/a") + b"\x00\x07x"
        again = b"\x3c" + publish[1:]
        for packet, answer in ((publish, b"\x50\x02\x00\x07"), (again, b"\x50\x02\x00\x07")):
            wire.sendall(packet)
            assert read(wire, 4) == answer
        for _ in range(2):
            wire.sendall(b"\x62\x02\x00\x07")
            assert read(wire, 4) == b"\x70\x02\x00\x07"
    reader.nothing_but("wire/a", ("wire/a", b"x", 2, False))
    reader.close()


@check
def broken_packets_end_the_connection():
    cases = {
        "reserved flags of PINGREQ": b"\xc1\x00",
        "PUBLISH with QoS 3": b"\x36\x05\x00\x01a\x00\x01",
        "PUBLISH to a wildcard": b"\x30\x03\x00\x01+",
        "PUBLISH of U+0000": b"\x30\x03\x00\x01\x00",
        "SUBSCRIBE without a filter": b"\x82\x02\x00\x01",
        "SUBSCRIBE of a#": b"\x82\x07\x00\x01\x00\x02a#\x00",
        "SUBSCRIBE with packet id 0": b"\x82\x06\x00\x00\x00\x01a\x00",
        "a length of five bytes": b"\x30\xff\xff\xff\xff\x01",
        "a second CONNECT": b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01b",
    }
    for name, packet in cases.items():
        if OPTIONS.lenient and name.startswith("reserved"):
            continue
        with connected("broken") as wire:
            wire.sendall(packet)
            rest = wire.recv(10)
            assert rest == b"", f"{name}: {rest}"


@check
def first_packet_is_connect():
    assert exchange(b"\xc0\x00") == b""
    body = b"\x00\x04MQTT\x09\x02\x00\x3c\x00\x01a"
    assert exchange(bytes([0x10, len(body)]) + body)[:4] in (b"\x20\x02\x00\x01", b"")


PUBLISH, PUBREC, PUBREL, PUBCOMP = 0x34, 0x50, 0x62, 0x70


class Wire:
    """A client on the bare wire whose session is kept, in the broker and here. It answers when it is told to. A message it publishes is its
    number, and the packet id is that and one."""

    def __init__(self, name):
        self.name, self.got, self.pending = name, [], set()
        self.socket = None
        assert not self.connect(), f"{name} had a session"

    def connect(self):
        """Says whether the broker knows the session."""
        self.close()
        self.socket = socket.create_connection((OPTIONS.host, OPTIONS.port), LIMIT)
        self._write(0x10, b"\x00\x04MQTT\x04\x00\x00\x00" + text(self.name))
        answer = self._read()
        assert answer[0] == 0x20 and answer[1][1:] == b"\x00", answer
        return answer[1][0] == 1

    def close(self):
        if self.socket:
            self.socket.close()

    def subscribe(self, topic):
        self._write(0x82, b"\x00\x01" + text(topic) + b"\x02")
        assert self._read() == (0x90, b"\x00\x01\x02")

    def publish(self, topic, number, again=False):
        flags = PUBLISH | 8 if again else PUBLISH
        self._write(flags, text(topic) + struct.pack(">H", number + 1) + str(number).encode())

    def release(self, number):
        self.send(PUBREL, number + 1)

    def send(self, kind, packet):
        self._write(kind, struct.pack(">H", packet))

    def answer(self):
        """The next packet, which is no message: its kind and the number whose packet id it has."""
        kind, body = self._read()
        assert kind in (PUBREC, PUBREL, PUBCOMP), (kind, body)
        return kind, struct.unpack(">H", body)[0] - 1

    def message(self):
        """The next packet, which is a message; gives its packet id."""
        kind, body = self._read()
        assert kind | 8 == PUBLISH | 8, (kind, body)
        return self._take(body)

    def _take(self, body):
        at = 2 + struct.unpack(">H", body[:2])[0]
        packet = struct.unpack(">H", body[at : at + 2])[0]
        if packet not in self.pending:
            self.pending.add(packet)
            self.got.append(int(body[at + 2 :]))
        return packet

    def forget(self, packet):
        self.pending.discard(packet)
        self.send(PUBCOMP, packet)

    def take_until(self, last):
        """Answers everything until this message was released; gives the numbers of all that came."""
        end = None
        while end is None or end in self.pending:
            kind, body = self._read()
            if kind == PUBREL:
                self.forget(struct.unpack(">H", body)[0])
                continue
            assert kind | 8 == PUBLISH | 8, (kind, body)
            packet = self._take(body)
            self.send(PUBREC, packet)
            if self.got[-1] == last:
                end = packet
        return self.got

    def _write(self, kind, body):
        assert len(body) < 128
        self.socket.sendall(bytes([kind, len(body)]) + body)

    def _read(self):
        kind, length = read(self.socket, 2)
        assert length < 128
        return kind, read(self.socket, length)


def kill_broker():
    """Asks whoever watches, and waits until the broker is there again."""
    open(OPTIONS.restart, "w").close()
    begin = time.monotonic()
    while os.path.exists(OPTIONS.restart):
        assert time.monotonic() - begin < 60, "nobody restarted the broker"
        time.sleep(0.05)


def text(words):
    return struct.pack(">H", len(words)) + words.encode()


def read(wire, count):
    data = b""
    while len(data) < count:
        piece = wire.recv(count - len(data))
        assert piece, f"the connection ended after {data}"
        data += piece
    return data


def connected(name):
    wire = socket.create_connection((OPTIONS.host, OPTIONS.port), LIMIT)
    body = b"\x00\x04MQTT\x04\x02\x00\x3c" + text(name)
    wire.sendall(bytes([0x10, len(body)]) + body)
    assert read(wire, 4) == b"\x20\x02\x00\x00"
    return wire


def exchange(data):
    """What the broker answers before it ends the connection."""
    with socket.create_connection((OPTIONS.host, OPTIONS.port), LIMIT) as wire:
        wire.sendall(data)
        answer = b""
        while True:
            try:
                piece = wire.recv(100)
            except ConnectionResetError:
                return answer
            if not piece:
                return answer
            answer += piece


def main():
    global OPTIONS
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--only")
    parser.add_argument("--lenient", action="store_true", help="for mosquitto, which breaks two rules")
    parser.add_argument("--restart")
    OPTIONS = parser.parse_args()
    failed = 0
    for function in CHECKS:
        if OPTIONS.only and OPTIONS.only != function.__name__:
            continue
        begin = time.monotonic()
        try:
            note = function() or "ok"
        except Exception:  # one check's failure is no other's
            note = "FAILED\n" + traceback.format_exc()
            failed += 1
        print(f"{function.__name__}: {note} ({time.monotonic() - begin:.2f} s)", flush=True)
    sys.exit(1 if failed else 0)


main()
