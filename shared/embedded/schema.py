"""The tables of the embedded store, as the migrations that lead to them.

A published migration is never changed: a new version is a new entry at the end. Documents are the
truth; the columns beside them repeat what queries need. Instants are whole microseconds.
"""

_JOBS = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    document TEXT NOT NULL,
    tenant TEXT NOT NULL,
    status TEXT NOT NULL,
    rank INTEGER NOT NULL,
    recipe TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    expire_at INTEGER NOT NULL,
    not_before INTEGER NOT NULL,
    wake_at INTEGER NOT NULL,
    claimed_at INTEGER,
    lease_expires_at INTEGER,
    cleanup_due INTEGER,
    deleted INTEGER NOT NULL,
    cancel_wished INTEGER NOT NULL,
    batch TEXT,
    scene_key TEXT,
    take INTEGER,
    superseded INTEGER NOT NULL,
    megapixel_steps REAL NOT NULL,
    gpu_seconds REAL NOT NULL
)
"""

_FIRST = (
    _JOBS,
    # Everything that is asked of waiting jobs is answered from this index alone, however many
    # jobs one tenant has waiting.
    """
    CREATE INDEX jobs_in_turn ON jobs (
        status, rank, tenant, created_at, id, not_before, wake_at, cancel_wished, megapixel_steps
    )
    """,
    "CREATE INDEX jobs_by_age ON jobs (status, created_at)",
    "CREATE INDEX jobs_by_lease ON jobs (lease_expires_at) WHERE lease_expires_at IS NOT NULL",
    "CREATE INDEX jobs_untidy ON jobs (cleanup_due) WHERE cleanup_due IS NOT NULL",
    "CREATE INDEX jobs_by_end ON jobs (expire_at)",
    "CREATE INDEX jobs_of_tenant ON jobs (tenant, created_at, id) WHERE deleted = 0",
    "CREATE INDEX jobs_by_change ON jobs (updated_at, gpu_seconds)",
    "CREATE INDEX jobs_of_batch ON jobs (batch, scene_key, take) WHERE batch IS NOT NULL",
    # Only unfinished jobs have rows here.
    """
    CREATE TABLE drawn_from (
        asset TEXT NOT NULL, job TEXT NOT NULL, PRIMARY KEY (asset, job)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX drawn_from_by_job ON drawn_from (job)",
    """
    CREATE TABLE idempotency (
        tenant TEXT NOT NULL,
        path TEXT NOT NULL,
        key_sha256 TEXT NOT NULL,
        request_sha256 TEXT NOT NULL,
        status INTEGER NOT NULL,
        headers TEXT NOT NULL,
        body BLOB NOT NULL,
        expire_at INTEGER NOT NULL,
        PRIMARY KEY (tenant, path, key_sha256)
    )
    """,
    "CREATE INDEX idempotency_by_end ON idempotency (expire_at)",
    """
    CREATE TABLE batches (
        id TEXT PRIMARY KEY,
        document TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        settled INTEGER NOT NULL
    )
    """,
    "CREATE INDEX batches_unfinished ON batches (created_at) WHERE settled = 0",
    """
    CREATE TABLE scenes (
        batch TEXT NOT NULL,
        key TEXT NOT NULL,
        position INTEGER NOT NULL,
        document TEXT NOT NULL,
        PRIMARY KEY (batch, key)
    )
    """,
    "CREATE INDEX scenes_in_order ON scenes (batch, position)",
    """
    CREATE TABLE assets (
        tenant TEXT NOT NULL,
        id TEXT NOT NULL,
        document TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        expire_at INTEGER,
        artifact TEXT NOT NULL,
        PRIMARY KEY (tenant, id)
    )
    """,
    "CREATE INDEX assets_of_tenant ON assets (tenant, created_at, id)",
    "CREATE INDEX assets_by_end ON assets (expire_at) WHERE expire_at IS NOT NULL",
    "CREATE INDEX assets_by_artifact ON assets (artifact)",
    """
    CREATE TABLE workers (
        id TEXT PRIMARY KEY,
        document TEXT NOT NULL,
        started_at INTEGER NOT NULL,
        at INTEGER NOT NULL
    )
    """,
    # One row at most: the operator's switch.
    "CREATE TABLE control (id INTEGER PRIMARY KEY CHECK (id = 1), document TEXT NOT NULL)",
)

_USAGE = (
    "ALTER TABLE batches ADD COLUMN tenant TEXT NOT NULL DEFAULT ''",
    "UPDATE batches SET tenant = json_extract(document, '$.tenant')",
    "CREATE INDEX batches_unfinished_of_tenant ON batches (tenant) WHERE settled = 0",
    # Tombstones are counted too: deleting a job does not unmake it.
    "CREATE INDEX jobs_made ON jobs (tenant, created_at)",
    "CREATE INDEX jobs_drawn ON jobs (tenant, updated_at, gpu_seconds) WHERE gpu_seconds > 0",
)

MIGRATIONS = (_FIRST, _USAGE)
