// The order of search results: pages that explain come before the reference, titles before words.
var Scorer = {
  score: ([docname, title, anchor, description, score]) => {
    const reference = docname.startsWith("api") || docname === "genindex";
    const chapter = docname.startsWith("notebooks/");
    return score - (reference ? 200 : 0) + (chapter ? 2 : 0);
  },
  objNameMatch: 0,
  objPartialMatch: 0,
  objPrio: { 0: 0, 1: 0, 2: 0 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
