"""The PostgreSQL backend, for several servers on one database (`interaction-svc[postgres]`).

The statements also run on distributed PostgreSQL engines, such as Citus. If the API call names a
Session, its statement filters by session_sid. Every unique key begins with session_sid. Normal
operation uses no triggers, foreign keys, advisory locks or notifications. Errors are classified by
SQLSTATE alone, except PgBouncer's errors and those of a connection attempt.
"""
