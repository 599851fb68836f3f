"""A Modbus device for the scenarios (pymodbus), and a client that looks into it.

modbus.py serve PORT [(input|discrete):N:V]...  serves 100 of each kind, all 0 but for these, which no client can write
modbus.py get PORT (register|coil) N            prints one
modbus.py set PORT (register|coil) N V          sets one
"""

import sys

from pymodbus.client import ModbusTcpClient
from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server import StartTcpServer


def serve(port, presets):
    block = lambda: ModbusSequentialDataBlock(0, [0] * 101)
    device = ModbusSlaveContext(di=block(), co=block(), hr=block(), ir=block())
    for preset in presets:
        kind, number, value = preset.split(":")
        # By the function that reads it.
        device.setValues({"discrete": 2, "input": 4}[kind], int(number), [int(value)])
    StartTcpServer(ModbusServerContext(slaves=device, single=True), address=("127.0.0.1", port))


def client(port, kind, number, value=None):
    with ModbusTcpClient("127.0.0.1", port=port) as device:
        if value is not None:
            write = {"register": device.write_register, "coil": device.write_coil}[kind]
            answer = write(number, int(value), slave=1)
        elif kind == "register":
            answer = device.read_holding_registers(number, count=1, slave=1)
        else:
            answer = device.read_coils(number, count=1, slave=1)
        if answer.isError():
            sys.exit(str(answer))
        if value is None:
            print(answer.registers[0] if kind == "register" else int(answer.bits[0]))


match sys.argv[1:]:
    case ["serve", port, *presets]:
        serve(int(port), presets)
    case ["get", port, kind, number]:
        client(int(port), kind, int(number))
    case ["set", port, kind, number, value]:
        client(int(port), kind, int(number), value)
    case _:
        sys.exit(__doc__)
