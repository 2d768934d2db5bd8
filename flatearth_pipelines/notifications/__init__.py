"""From an event to one email per window.

`notifying.py` has every new event and text looked at once: `recipients.py` and `mentions.py` are the rules of who is
told, `storage.py` and `audience_storage.py` read what they need, and Postgres has each notification fall into its
person's window, a bundle. `delivery.py` claims the bundles whose window is over, `digest.py` decides what stands in the
mail, `render.py` and `templates/` how it looks, `transport.py` sends it. `functions.py` is what an application calls.
"""
