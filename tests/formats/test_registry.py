"""Registries: names of subjects by every strategy, several kinds of records in one topic, references in a diamond, TLS, passwords.

The registry is reached over TLS with a certificate of the client, and by way of a first URL where nobody answers; and by way of
a gate in front of it that wants a password.
"""

import base64
import contextlib
import http.client
import http.server
import json
import os
import pathlib
import socket
import threading
import unittest
import urllib.parse

import protobuf_types
from bench import Bench, Row, Wrong, variable
from confluent_kafka.schema_registry import (Schema, SchemaReference, record_subject_name_strategy, topic_record_subject_name_strategy,
                                             topic_subject_name_strategy)
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from values import generator, integer, text

STRATEGIES = {"topic": topic_subject_name_strategy, "record": record_subject_name_strategy, "topic_record": topic_record_subject_name_strategy}
CONTRACT = {"id": "int64", "name": "string", "total": "int64"}
# Two kinds of records, as an order and what is paid for it.
KINDS = {"Order": ["id", "name"], "Payment": ["total", "id"]}
TYPES = {"id": ("long", "int64"), "name": ("string", "string"), "total": ("long", "int64")}
ROUNDS = 20


def registry():
    """What a topology says of a registry behind TLS."""
    certificate = "".join(pathlib.Path(variable(name)).read_text() for name in ("ISOBAR_TLS_CLIENT_KEY", "ISOBAR_TLS_CLIENT_CERT"))
    os.environ["ISOBAR_TEST_IDENTITY"] = certificate
    with socket.socket() as nobody:
        # Bound and not listening: whoever connects is refused.
        nobody.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{nobody.getsockname()[1]}/apis/ccompat/v7,{variable('ISOBAR_REGISTRY_TLS_URL')}"
    options = {"ca_pem": f"${{file:{variable('ISOBAR_TLS_CA')}}}", "identity_pem": "${env:ISOBAR_TEST_IDENTITY}"}
    return {"url": url, "options": options}


@unittest.skipUnless(os.environ.get("ISOBAR_REGISTRY_TLS_URL", "unset"), "the services were started without TLS")
class Registry(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bench = Bench("registry", registry())
        cls.addClassCleanup(cls.bench.remove)
        cls.rng = generator("registry")
        # Names of their own: the strategies without a topic share them between runs.
        cls.package = "t" + cls.bench.prefix.rpartition("-")[2]
        for name, strategy in STRATEGIES.items():
            for format, serializers in (("avro", cls.avro), ("protobuf", cls.protobuf), ("json", cls.json)):
                source = cls.bench.source(f"{format}_{name}", {"format": format, "framing": "confluent"}, CONTRACT)
                cls.produce(source, serializers({"subject.name.strategy": strategy}))
        cls.diamond()
        cls.bench.run()

    @classmethod
    def produce(cls, source, serializers):
        for _ in range(ROUNDS):
            for kind, (serializer, make, absent) in serializers.items():
                values = {name: text(cls.rng) if name == "name" else integer(64)(cls.rng) for name in KINDS[kind]}
                source.serialised(serializer, make(values), Row({**dict.fromkeys(CONTRACT, absent), **values}))

    @classmethod
    def avro(cls, conf):
        def serializer(kind, names):
            fields = [{"name": name, "type": TYPES[name][0]} for name in names]
            schema = {"type": "record", "name": kind, "namespace": cls.package, "fields": fields}
            return AvroSerializer(cls.bench.registry, json.dumps(schema), conf=conf)

        return {kind: (serializer(kind, names), dict, None) for kind, names in KINDS.items()}

    @classmethod
    def protobuf(cls, conf):
        """Two messages of one schema."""
        messages = " ".join(
            f"message {kind} {{ {' '.join(f'{TYPES[name][1]} {name} = {number};' for number, name in enumerate(names, 1))} }}"
            for kind, names in KINDS.items())
        pool = protobuf_types.compiled(f'syntax = "proto3"; package {cls.package}; {messages}')

        def entry(kind):
            message = protobuf_types.message_class(pool, f"{cls.package}.{kind}")
            return ProtobufSerializer(message, cls.bench.registry, conf=conf), lambda values: protobuf_types.fill(message(), values), None

        return {kind: entry(kind) for kind in KINDS}

    @classmethod
    def json(cls, conf):
        def serializer(kind, names):
            schema = {"$schema": "http://json-schema.org/draft-07/schema#", "title": f"{cls.package}.{kind}", "type": "object",
                      "properties": {name: {} for name in names}, "required": names}
            return JSONSerializer(json.dumps(schema), cls.bench.registry, conf=conf)

        return {kind: (serializer(kind, names), dict, None) for kind, names in KINDS.items()}

    @classmethod
    def diamond(cls):
        """A record of two, each of which refers to the same third; the names have no namespace of their own."""
        def record(name, /, **fields):
            return {"type": "record", "name": name, "namespace": cls.package, "fields": [{"name": n, "type": kind} for n, kind in fields.items()]}

        def register(schema, *references):
            subject = f"{cls.bench.prefix}-{schema['name']}"
            text_of = Schema(json.dumps(schema), "AVRO", list(references))
            cls.bench.registry.register_schema(subject, text_of)
            return SchemaReference(f"{cls.package}.{schema['name']}", subject, 1)

        money = register(record("Money", cents="long"))
        item = register(record("Item", price="Money", name="string"), money)
        fee = register(record("Fee", amount=f"{cls.package}.Money"), money)
        order = record("Bill", items={"type": "array", "items": "Item"}, fee=["null", f"{cls.package}.Fee"], total="Money")
        contract = {"items": "list<struct<price: struct<cents: int64>, name: string>>", "fee": "struct<amount: struct<cents: int64>>",
                    "total": "struct<cents: int64>"}
        source = cls.bench.source("diamond", {"format": "avro"}, contract)
        serializer = AvroSerializer(cls.bench.registry, Schema(json.dumps(order), "AVRO", [money, item, fee]))

        def money_of():
            return {"cents": integer(64)(cls.rng)}

        for number in range(ROUNDS):
            items = [{"price": money_of(), "name": text(cls.rng)} for _ in range(number % 4)]
            value = {"items": items, "fee": {"amount": money_of()} if number % 2 else None, "total": money_of()}
            source.serialised(serializer, value, Row(value))

    def judge(self, format):
        self.bench.judge(*(f"{format}_{strategy}" for strategy in STRATEGIES))

    def test_avro_by_every_strategy(self):
        self.judge("avro")

    def test_protobuf_by_every_strategy(self):
        self.judge("protobuf")

    def test_json_by_every_strategy(self):
        self.judge("json")

    def test_references_in_a_diamond(self):
        self.bench.judge("diamond")

    def test_prove_holds(self):
        self.bench.prove()


# ---------------------------------------------------------------- passwords

USER, PASSWORD, ANOTHER = "reader", "geheim: ä/+%40", "vergessen"


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Gate(http.server.BaseHTTPRequestHandler):
    """Lets whoever has the password ask the real registry, and nobody else."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        if self.server.elsewhere:
            return self.send(307, {"Location": self.server.elsewhere + self.path}, b"")
        if self.headers.get("Authorization") != basic(USER, PASSWORD):
            return self.send(401, {"WWW-Authenticate": 'Basic realm="registry"'}, b"")
        registry = urllib.parse.urlsplit(variable("ISOBAR_REGISTRY_URL"))
        kinds = {name: self.headers[name] for name in ("Accept", "Content-Type") if name in self.headers}
        with contextlib.closing(http.client.HTTPConnection(registry.netloc)) as connection:
            connection.request(self.command, registry.path + self.path, body, kinds)
            answer = connection.getresponse()
            self.send(answer.status, {"Content-Type": answer.headers.get("Content-Type", "")}, answer.read())

    do_GET = do_POST = answer

    def send(self, status, headers, body):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


class Passwords(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Only the program is told, by its environment.
        os.environ.update(ISOBAR_TEST_PASSWORD=PASSWORD, ISOBAR_TEST_ANOTHER=ANOTHER)

    def gate(self, elsewhere=None):
        """A gate in front of the registry, or one that sends everybody elsewhere."""
        gate = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate)
        gate.asked, gate.elsewhere = [], elsewhere
        gate.url = f"http://127.0.0.1:{gate.server_address[1]}"
        serving = threading.Thread(target=gate.serve_forever)
        serving.start()
        self.addCleanup(serving.join)
        self.addCleanup(gate.server_close)
        self.addCleanup(gate.shutdown)
        return gate

    def bench(self, name, gate, options):
        """A topology with some records whose schema the registry behind the gate has."""
        bench = Bench(f"password-{name}", {"url": gate.url, "options": options})
        self.addCleanup(bench.remove)
        rng = generator(f"registry password {name}")
        source = bench.source("orders", {"format": "avro"}, {"id": "int64", "name": "string"})
        fields = [{"name": name, "type": TYPES[name][0]} for name in ("id", "name")]
        serializer = AvroSerializer(bench.registry, json.dumps({"type": "record", "name": "Order", "fields": fields}))
        for _ in range(ROUNDS):
            value = {"id": integer(64)(rng), "name": text(rng)}
            source.serialised(serializer, value, Row(value))
        return bench

    def refused(self, bench, said):
        """The program stops, says why, and shows no secret."""
        bench.produce()
        done = bench.isobar("run", bench.spec(), "--until-caught-up", "--progress", "never")
        shown = done.stdout + done.stderr
        if done.returncode != 2 or said not in shown:
            raise Wrong(f"expected exit code 2 and `{said}`, found {done.returncode}: {shown[-4000:]}")
        for secret in (PASSWORD, ANOTHER, basic(USER, PASSWORD)[6:], basic(USER, ANOTHER)[6:]):
            self.assertNotIn(secret, shown)

    def test_user_and_password_are_sent_with_every_question(self):
        gate = self.gate()
        bench = self.bench("good", gate, {"username": USER, "password": "${env:ISOBAR_TEST_PASSWORD}"})
        bench.run()
        bench.judge("orders")
        self.assertTrue(gate.asked)
        self.assertEqual({sent for _, sent in gate.asked}, {basic(USER, PASSWORD)})

    def test_a_wrong_password_ends_the_run(self):
        gate = self.gate()
        self.refused(self.bench("wrong", gate, {"username": USER, "password": "${env:ISOBAR_TEST_ANOTHER}"}), "it does not accept the credentials")
        self.assertEqual([sent for _, sent in gate.asked], [basic(USER, ANOTHER)])

    def test_no_password_ends_the_run(self):
        gate = self.gate()
        self.refused(self.bench("none", gate, {}), "no credentials were sent")
        self.assertEqual([sent for _, sent in gate.asked], [None])

    def test_a_password_goes_to_no_other_server(self):
        real = self.gate()
        gate = self.gate(elsewhere=real.url)
        bench = self.bench("redirected", gate, {"username": USER, "password": "${env:ISOBAR_TEST_PASSWORD}"})
        self.refused(bench, "a redirect, which is not followed")
        self.assertEqual([sent for _, sent in gate.asked], [basic(USER, PASSWORD)])
        self.assertEqual(real.asked, [])


if __name__ == "__main__":
    unittest.main()
