"""The attention engine: a QK array, the unit of any method, a PV array and their buffers; and its golden integers."""
