"""Workspaces to try things on, without an application: one made up, one of your own.

* `flatearth demo`: `sample` makes up accounts with people, boards and cards in every state, the same for the same
  seed; `organisation`, `work`, `draws` and `words` are its parts.
* `flatearth import trello FILE`: `trello` turns a board as Trello exports it into an account, after
  `trello_export` has checked the file.

Both come back as a `workspace.Workspace`, frames with ids of their own, which `storage.load` gives real ids and
copies into the database.
"""
