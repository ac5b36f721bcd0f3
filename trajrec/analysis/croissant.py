"""The release as Croissant 1.1: a description of its files that dataset tools read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trajrec.analysis.card import Card
from trajrec.analysis.card_text import TableFile

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataBiases": "cr:dataBiases",
    "dataCollection": "cr:dataCollection",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "personalSensitiveInformation": "cr:personalSensitiveInformation",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
    "value": "cr:value",
}
"""The context of the specification."""

REQUIRED = ("name", "description", "license", "url", "creator", "datePublished")
"""Properties that the specification requires, and of which validators say nothing."""

_TYPES = {
    "BOOLEAN": "sc:Boolean",
    "DOUBLE": "sc:Float",
    "BIGINT": "sc:Integer",
    "INTEGER": "sc:Integer",
    "UBIGINT": "sc:Integer",
    "UINTEGER": "sc:Integer",
    "TIMESTAMP": "sc:DateTime",
}


def croissant(
    card: Card, tables: Sequence[TableFile], digests: Mapping[str, str]
) -> dict[str, Any]:
    """Return croissant.json as plain data.

    Args:
        card: The card.
        tables: The tables of the release.
        digests: SHA-256 of each file, by its path.
    """
    about = card["about"]
    given = {
        "name": about["name"],
        "description": about["description"],
        "license": about["license"],
        "url": about["url"],
        "creator": about["creator"] and {"@type": "sc:Organization", "name": about["creator"]},
        "datePublished": about["published"],
    }
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        **{name: value for name, value in given.items() if value},
        "rai:dataCollection": f"Episodes recorded with {card['made_with']}, as they ran.",
        "rai:dataLimitations": card["missing"],
        "distribution": [_file(table, digests) for table in tables],
        "recordSet": [*(_records(table) for table in tables), _claims(card)],
    }


def _file(table: TableFile, digests: Mapping[str, str]) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": _id(table),
        "name": _id(table),
        "contentUrl": table.path,
        # The registered name of the format validates too, and readers cannot read it.
        "encodingFormat": "application/x-parquet",
        "sha256": digests[table.path],
    }


def _id(table: TableFile) -> str:
    return f"{table.table}-{table.split}.parquet"


def _records(table: TableFile) -> dict[str, Any]:
    name = f"{table.table}-{table.split}"
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": column,
                "dataType": _TYPES.get(kind, "sc:Text"),
                "source": {"fileObject": {"@id": _id(table)}, "extract": {"column": column}},
            }
            for column, kind in table.columns
        ],
    }


def _claims(card: Card) -> dict[str, Any]:
    """Return the support of each claim, inside of the description."""
    fields = {
        "claim": "sc:Text",
        "episodes": "sc:Integer",
        "of": "sc:Integer",
        "verdict": "sc:Text",
    }
    return {
        "@type": "cr:RecordSet",
        "@id": "claims",
        "name": "claims",
        "field": [
            {"@type": "cr:Field", "@id": f"claims/{name}", "name": name, "dataType": kind}
            for name, kind in fields.items()
        ],
        "data": [
            {
                "claims/claim": claim,
                "claims/episodes": support["n"],
                "claims/of": support["n_episodes"],
                "claims/verdict": support["verdict"],
            }
            for claim, support in card["claims"].items()
        ],
    }


def lacking(description: Mapping[str, Any]) -> list[str]:
    """Return the required properties that a description lacks."""
    return [name for name in REQUIRED if not description.get(name)]
