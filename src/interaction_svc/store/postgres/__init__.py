"""The PostgreSQL backend, for several servers on one database: needs `interaction-svc[postgres]`.

The statements also run on distributed PostgreSQL engines, such as Citus. Each filters by
session_sid where the API names a Session. Every unique key begins with session_sid. Normal
operation uses no triggers, foreign keys, advisory locks or notifications. Errors are classified by
SQLSTATE alone, except PgBouncer's and those of a connection attempt.
"""
