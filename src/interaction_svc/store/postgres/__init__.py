"""The PostgreSQL backend, for what outgrows one machine: needs `interaction-svc[postgres]`.

Statements keep to what distributed engines of PostgreSQL's kind can do: each says its session_sid
where the API has it, unique keys begin with session_sid, and there are no triggers, foreign keys,
advisory locks or notifications. Errors are told apart by SQLSTATE alone.
"""
