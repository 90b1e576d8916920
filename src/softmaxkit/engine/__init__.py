"""The attention engine: a QK array, any method's unit, a PV array and their buffers; and the integers it computes."""
