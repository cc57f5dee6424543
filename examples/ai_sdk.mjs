// Search with Vercel's AI SDK against a running `quernel serve`.
//
//     npm ci --prefix examples
//     quernel serve
//     node examples/ai_sdk.mjs [http://127.0.0.1:1234]

import { createCohere } from '@ai-sdk/cohere';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { cosineSimilarity, embed, embedMany, rerank } from 'ai';

const url = process.argv[2] ?? 'http://127.0.0.1:1234';
const documents = ['Bananas are yellow.', 'Paris is the capital of France.', 'Water boils at a hundred degrees.'];
const query = 'What is the capital of France?';

const quernel = createOpenAICompatible({ name: 'quernel', baseURL: `${url}/v1` });
// The same server, whose texts are queries: what OpenAI's dialect has no field for is said in a header.
const asking = createOpenAICompatible({
  name: 'quernel',
  baseURL: `${url}/v1`,
  headers: { 'x-quernel-input-type': 'query' },
});

const { embeddings } = await embedMany({ model: quernel.embeddingModel('default'), values: documents });
const { embedding } = await embed({ model: asking.embeddingModel('default'), value: query });
const scores = embeddings.map(vector => cosineSimilarity(embedding, vector));
console.log(documents[scores.indexOf(Math.max(...scores))]);

// Reranking goes through Cohere's dialect, which the AI SDK has a provider for.
const cohere = createCohere({ baseURL: `${url}/v2`, apiKey: 'none' });
const { ranking } = await rerank({ model: cohere.reranking('default'), documents, query });
for (const { originalIndex, score } of ranking) console.log(score.toFixed(3), documents[originalIndex]);
