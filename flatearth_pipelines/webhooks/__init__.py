"""From an event to a request at every endpoint that wants to hear of it.

`dispatching.py` turns new events into deliveries; `delivery.py` claims what is due, has `payload.py` and `signing.py`
write what is sent, `transport.py` send it, only where `addresses.py` lets it, and records by `settlement.py` and
`delinquency.py` what becomes of the delivery and of its endpoint. `functions.py` is what an application calls.
"""
