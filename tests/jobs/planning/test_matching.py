"""Which objects are taken for unchanged, which shards come over whole, and where the texts of the others may be found."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.corpus.discovery import Corpus
from jobs.corpus.listing import RowGroup, SourceObject
from jobs.planning.matching import Reuse, match
from jobs.planning.sharding import cut
from tests.jobs.nights_records import LOCAL, S3, base_shards, made, reader, receipts_of, source
from workers.records.shard import Shard

KINDS = ("unchanged", "changed", "new", "deleted")


def kinds(found: Reuse) -> tuple[int, ...]:
    return tuple(found.objects[kind] for kind in KINDS)


def numbers(found: Reuse) -> list[int | None]:
    return [shard.carried for shard in found.carried]


def test_an_unchanged_corpus_comes_over_whole() -> None:
    before = [source(name) for name in "abc"]
    shards = base_shards(before)
    found = made(shards, before)
    assert kinds(found) == (3, 0, 0, 0)
    assert [replace(shard, carried=None) for shard in found.carried] == shards
    assert numbers(found) == [shard.number for shard in shards]
    assert found.given == {source.info.uri: () for source in before}
    assert found.serves


def test_changed_new_and_deleted() -> None:
    before = [source(name) for name in "abcd"]
    now = [source("a"), source("b", etag="other"), source("d"), source("e")]
    found = made(base_shards(before), now)
    assert kinds(found) == (2, 1, 1, 1)
    assert {piece.uri for shard in found.carried for piece in shard.slices} == {now[0].info.uri, now[2].info.uri}


@pytest.mark.parametrize("etag", ["0" * 32, "0" * 32 + "-12"])
def test_content_under_another_name_on_s3(etag: str) -> None:
    before = [source("a", S3, etag=etag), source("b", S3, etag="1" * 32)]
    now = [source("b", S3, etag="1" * 32), source("z", S3, etag=etag)]
    found = made(base_shards(before), now)
    assert kinds(found) == (2, 0, 0, 0), "renamed is unchanged, and its old name is not deleted"
    assert {piece.uri for shard in found.carried for piece in shard.slices} == {item.info.uri for item in now}
    assert all(piece.partitions == () for shard in found.carried for piece in shard.slices)
    # ids made of the key are other ids
    found = made(base_shards(before), now, ids_from_column=False)
    assert kinds(found) == (2, 0, 0, 0)
    assert {piece.uri for shard in found.carried for piece in shard.slices} == {now[0].info.uri}
    assert found.earlier(slice_of(now[1])), "its texts are there all the same"


def slice_of(item: SourceObject):  # type: ignore[no-untyped-def]
    (shard,) = base_shards([item], shard_bytes=1 << 30)
    return shard.slices[0]


def test_a_local_etag_says_nothing_of_content() -> None:
    before, now = [source("a", LOCAL, etag="0" * 32)], [source("z", LOCAL, etag="0" * 32)]
    found = made(base_shards(before), now)
    assert kinds(found) == (0, 0, 1, 1)
    assert found.carried == ()
    assert found.earlier(slice_of(now[0])) == tuple(
        file.path for receipt in receipts_of(base_shards(before)).values() for file in receipt.files
    ), "the texts of a file of its size that is gone may be its own"


def test_an_object_of_another_size_has_no_earlier_texts() -> None:
    found = made(base_shards([source("a", LOCAL)]), [source("z", LOCAL, groups=7)])
    assert found.earlier(slice_of(source("z", LOCAL, groups=7))) == ()
    assert not found.serves


def test_two_objects_that_change_places() -> None:
    before = [source("a", S3, etag="a" * 32), source("b", S3, etag="b" * 32)]
    now = [source("a", S3, etag="b" * 32), source("b", S3, etag="a" * 32)]
    found = made(base_shards(before), now)
    assert kinds(found) == (2, 0, 0, 0)
    assert len(found.carried) == len(base_shards(before))
    moved = {shard.carried: shard.slices[0] for shard in found.carried}
    for shard in base_shards(before):
        assert moved[shard.number].uri != shard.slices[0].uri
        assert moved[shard.number].etag == shard.slices[0].etag


def test_a_copy_is_carried_beside_its_original() -> None:
    before, now = [source("a", S3, etag="a" * 32)], [source("a", S3, etag="a" * 32), source("b", S3, etag="a" * 32)]
    found = made(base_shards(before), now)
    assert kinds(found) == (2, 0, 0, 0)
    assert len(found.carried) == 2 * len(base_shards(before))
    assert {shard.slices[0].uri for shard in found.carried} == {item.info.uri for item in now}


def test_another_partition_is_read_again() -> None:
    before, now = [source("a", S3)], [source("a", S3, partitions=(("lang", "de"),))]
    found = made(base_shards(before), now)
    assert (kinds(found), found.carried) == ((1, 0, 0, 0), ())
    assert found.earlier(slice_of(now[0]))


def test_what_was_given_up_is_tried_again() -> None:
    before = [source(name, groups=1) for name in "abcd"]
    shards = base_shards(before)
    receipts = receipts_of(shards)
    receipts[0] = replace(receipts[0], excluded=(before[0].info.uri,))
    receipts[1] = replace(receipts[1], lost_objects=(before[1].info.uri,))
    del receipts[2]  # quarantined as a whole
    found = made(shards, before, receipts=receipts)
    assert numbers(found) == [3]
    assert found.given == {before[3].info.uri: ()}
    assert [shard.slices[0].uri for shard in cut_again(before, found)[1:]] == [item.info.uri for item in before[:3]]


def test_quarantined_rows_stay_with_their_object_and_not_under_another_name() -> None:
    before = [source("a", S3, etag="a" * 32), source("b", S3, etag="b" * 32)]
    shards = base_shards(before)
    receipts = {number: replace(receipt, quarantined_rows=1) for number, receipt in receipts_of(shards).items()}
    found = made(shards, [source("a", S3, etag="a" * 32), source("c", S3, etag="b" * 32)], receipts=receipts)
    assert {shard.slices[0].uri for shard in found.carried} == {before[0].info.uri}


def cut_again(objects: list[SourceObject], found: Reuse | None, shard_bytes: int = 1000) -> list[Shard]:
    return cut(Corpus(tuple(objects), reader()), shard_bytes, id_given=True, reuse=found)


def test_neighbours_of_a_changed_object_keep_what_is_theirs() -> None:
    """Small objects in one shard: one changes, the others are read again, and all know where their texts are."""
    before = [source(name, groups=1, text=100) for name in "abcdefgh"]
    shards = base_shards(before, shard_bytes=500)
    assert [len(shard.slices) for shard in shards] == [5, 3]
    now = [source("a", groups=1, text=100, etag="x"), *before[1:]]
    found = made(shards, now)
    assert numbers(found) == [1]
    cut_now = cut_again(now, found, 500)
    assert [len(shard.slices) for shard in cut_now] == [3, 5]
    assert cut_now[1].earlier == tuple(file.path for file in receipts_of(shards)[0].files)


def test_of_a_large_object_only_the_slices_that_are_not_carried_are_left() -> None:
    """Its tail shared a shard with an object that changed (a cut by an older rule)."""
    before = [source("a", groups=6), source("b", groups=1)]
    shards = base_shards(before)
    whole, tail, neighbour = shards[:-2], shards[-2], shards[-1]
    shards = [*whole, Shard(tail.number, tail.slices + neighbour.slices, tail.text_bytes + neighbour.text_bytes)]
    now = [before[0], source("b", groups=1, etag="x")]
    found = made(shards, now)
    assert numbers(found) == [shard.number for shard in whole]
    assert found.given == {now[0].info.uri: tail.slices}
    cut_now = cut_again(now, found)
    assert sorted((piece.uri, piece.start, piece.stop) for shard in cut_now for piece in shard.slices) == sorted(
        (piece.uri, piece.start, piece.stop) for shard in shards for piece in shard.slices
    )
    assert all(shard.earlier for shard in cut_now if shard.carried is None)


def test_of_many_shards_only_the_neighbours_are_looked_through() -> None:
    before, now = [source("a", groups=20)], [source("a", groups=22, etag="x")]
    shards = base_shards(before)
    assert len(shards) == 20
    found = made(shards, now)
    for shard in cut_again(now, found):
        place = shard.slices[0].start / 22
        searched = [int(path.rpartition("-")[2][:7]) for path in shard.earlier]
        assert 2 <= len(searched) <= 4
        assert min(searched) / 20 <= place <= (max(searched) + 1) / 20


def test_other_rows_are_read_again_and_other_vectors_are_of_no_use() -> None:
    before = [source("a"), source("b")]
    found = made(base_shards(before), before, same_rows=False)
    assert (found.carried, found.given) == ((), {})
    assert all(shard.earlier for shard in cut_again(before, found))
    found = made(base_shards(before), before, same_vectors=False)
    assert (kinds(found), found.serves, found.given) == ((2, 0, 0, 0), False, {})
    assert cut_again(before, found) == cut_again(before, None)


def test_an_object_without_rows_is_in_no_manifest() -> None:
    empty = source("e", groups=0)
    found = made(base_shards([source("a"), empty]), [source("a"), empty])
    assert kinds(found) == (2, 0, 0, 0)
    found = made(base_shards([source("a")]), [source("a", groups=0, etag="x")])
    assert kinds(found) == (0, 1, 0, 0)


@given(st.data())
def test_every_slice_is_there_once_whatever_happened_over_night(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1))
    sizes = {name: data.draw(st.integers(1, 6)) for name in names}
    before = [source(name, S3, groups=sizes[name], etag=f"{ord(name):032x}") for name in sorted(names)]
    shards = cut_again(before, None, data.draw(st.sampled_from([300, 1000, 5000])))
    receipts = receipts_of(shards)
    for number in data.draw(st.sets(st.sampled_from(sorted(receipts)))):
        broken = data.draw(st.sampled_from(["excluded", "quarantined", "gone"]))
        if broken == "gone":
            del receipts[number]
        elif broken == "excluded":
            receipts[number] = replace(receipts[number], excluded=("x",))
        else:
            receipts[number] = replace(receipts[number], quarantined_rows=1)
    now: list[SourceObject] = []
    for item in before:
        fate = data.draw(st.sampled_from(["same", "changed", "deleted", "renamed", "copied", "moved"]))
        name = item.info.uri.rpartition("/")[2].partition(".")[0]
        same = {"groups": sizes[name], "etag": item.info.etag}
        now += [item] if fate in ("same", "copied") else []
        now += [source(name, S3, groups=sizes[name], etag="f" * 32)] if fate == "changed" else []
        now += [source(f"z-{name}", S3, **same)] if fate in ("renamed", "copied") else []  # type: ignore[arg-type]
        now += [source(name, S3, partitions=(("k", "v"),), **same)] if fate == "moved" else []  # type: ignore[arg-type]
    now.sort(key=lambda item: item.info.uri)
    found = match(
        "base", shards, receipts, now, same_rows=data.draw(st.booleans()), ids_from_column=data.draw(st.booleans())
    )
    cut_now = cut_again(now, found)
    assert [shard.number for shard in cut_now] == list(range(len(cut_now)))
    covered: dict[str, list[tuple[int, int]]] = {}
    for shard in cut_now:
        for piece in shard.slices:
            covered.setdefault(piece.uri, []).append((piece.start, piece.stop))
    assert {uri: [at for start, stop in sorted(pieces) for at in range(start, stop)] for uri, pieces in covered.items()} == {
        item.info.uri: list(range(len(item.row_groups or ()))) for item in now
    }
    by_uri = {item.info.uri: item for item in now}
    assert all(
        (piece.size, piece.etag, piece.partitions)
        == (by_uri[piece.uri].info.size, by_uri[piece.uri].info.etag, by_uri[piece.uri].partitions)
        for shard in cut_now
        for piece in shard.slices
    )
    assert cut_again(now, found) == cut_now


def test_groups_are_of_rows_and_text() -> None:
    assert source("a", groups=2, text=7).row_groups == (RowGroup(10, 7), RowGroup(10, 7))
