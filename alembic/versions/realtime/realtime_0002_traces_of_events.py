"""traces of events"""

import sqlalchemy as sa
from alembic import op

revision = "realtime_0002"
down_revision = "realtime_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("event_log", sa.Column("trace", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("event_log", "trace")
