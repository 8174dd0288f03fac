"""traces of jobs"""

import sqlalchemy as sa
from alembic import op

revision = "core_0003"
down_revision = "core_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("trace", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "trace")
