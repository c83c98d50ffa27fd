"""Open Parquet files whose metadata can be asked of any file.

`RowGroupMetaData.column` of pyarrow ends the process (`terminate called after throwing`) where a footer states size
statistics that do not fit its schema, as a damaged file does and as pyarrow 19.0.0 found in files of others
(apache/arrow#45283); so do the statistics of a column of another type. A reader of the same column raises instead; it
is made first, and reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

_UNREAD_BYTES = 4096  # a reader with a buffer fetches no page before it is asked for rows


class OpenParquet:
    """A Parquet file that is open; closes with a `with` block.

    Args:
        source: the open file.
        pre_buffer: fetch the wanted columns of a row group in few requests.
        verify: compare pages with their checksums.

    Attributes:
        file: for everything but the metadata of columns.

    Raises:
        OSError, pa.ArrowException: it is no Parquet file.
    """

    def __init__(self, source: pa.NativeFile, pre_buffer: bool = False, verify: bool = False) -> None:
        self._source = source
        self.file = pq.ParquetFile(source, pre_buffer=pre_buffer, page_checksum_verification=verify)
        self._unread = pq.ParquetFile(
            source, metadata=self.file.metadata, pre_buffer=False, buffer_size=_UNREAD_BYTES
        ).reader
        schema = self.file.schema
        self._top = [schema.column(i).path.partition(".")[0] for i in range(len(schema))]  # of each leaf

    def __enter__(self) -> OpenParquet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.close()

    def rows(self, group: int) -> int:
        """Rows of a row group."""
        return int(self.file.metadata.row_group(group).num_rows)

    def chunks(self, group: int, columns: list[str]) -> Iterator[pq.ColumnChunkMetaData]:
        """Metadata of the column chunks of some columns, with all that are nested in them.

        Args:
            group: row group.
            columns: names at the top of the schema.

        Raises:
            OSError: the footer is damaged there.
        """
        leaves = [i for i, name in enumerate(self._top) if name in columns]
        if not leaves:  # batches of no rows and no columns never end
            return
        for _ in self._unread.iter_batches(0, [group], column_indices=leaves, use_threads=False):
            raise AssertionError("rows of a batch without any")
        metadata, schema = self.file.metadata.row_group(group), self.file.schema
        for i in leaves:
            chunk, kind = metadata.column(i), schema.column(i).physical_type
            if chunk.physical_type != kind:  # its statistics end the process, too
                raise OSError(f"column {chunk.path_in_schema!r} is {chunk.physical_type}, by the schema {kind}")
            yield chunk
